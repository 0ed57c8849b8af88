# SPDX-License-Identifier: MIT
# Completion of ser-train for bash. A test holds it against the option table of the program.

_ser_train()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} before=
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    elif ((COMP_CWORD > 1)); then
        before=${COMP_WORDS[COMP_CWORD-2]}
    fi
    COMPREPLY=()
    local words=
    case $prev in
    --dataset) words='ravdess crema-d tess savee emo-db manifest' ;;
    -s|--split) words='emobox6 luna5 loso actors random column none' ;;
    --validation) words='next none' ;;
    --schedule) words='constant linear cosine' ;;
    --class-weight) words='none inverse' ;;
    --part) words='test validation train all' ;;
    -d|--device) words='auto cpu cuda' ;;
    --precision) words='auto f32 bf16' ;;
    --backbone|--arch|--init|--model|--output|--config|--manifest-root|-[baomc]) words=@ ;;
    --folds|--repeat|--merge|--drop|--alias|--group-column|--delimiter|-e|--epochs|--max-steps|\
    --batch-size|--accumulate|-r|--lr|--lr-head|--layer-decay|--warmup|--weight-decay|--beta1|\
    --beta2|--clip-norm|--ema|--label-smoothing|--projection-dropout|--hidden-dropout|\
    --attention-dropout|--activation-dropout|--classifier-dropout|--layerdrop|--mask-time-prob|\
    --mask-time-length|--mask-channel-prob|--mask-channel-length|--freeze-layers|--freeze|\
    --patience|--max-skipped|--seed|--augment-speed-probability|--augment-speed|--augment-gain-db|\
    --augment-noise-probability|--augment-noise-snr-low|--augment-noise-snr-high|\
    --augment-silence-probability|--augment-silence|--augment-crop-probability|--augment-crop|\
    --augment-lowpass-probability|--augment-lowpass-low|--augment-max-seconds|--augment-mel-warp|\
    --augment-mel-tilt|--augment-mel-ripple|--augment-mel-channel-spans|\
    --augment-mel-channel-width|--augment-mel-time-spans|--augment-mel-time-width|--keep|\
    --save-seconds|--save-every|--eval-every|--log-every|--time-limit|-t|--threads|\
    --loader-threads|--cache-mb|--feature-cache-mb)
        return ;;
    esac
    if [[ -z $words && $before == --dataset ]]; then
        words=@ # the second word of this option
    fi
    if [[ -z $words ]]; then
        COMPREPLY=($(compgen -W '--dataset --split --validation --cv --folds --repeat --merge --drop --alias
            --allow-leaks --skip-bad --manifest-root --group-column --delimiter --confine
            --backbone --arch --init --layer-mix --model --epochs --max-steps --batch-size
            --accumulate --lr --lr-head --layer-decay --schedule --warmup --weight-decay
            --beta1 --beta2 --clip-norm --ema --label-smoothing --class-weight
            --projection-dropout --hidden-dropout --attention-dropout --activation-dropout
            --classifier-dropout --layerdrop --mask-time-prob --mask-time-length
            --mask-channel-prob --mask-channel-length --train-features --freeze-layers
            --freeze --patience --max-skipped --seed --augment-speed-probability
            --augment-speed --augment-gain-db --augment-noise-probability
            --augment-noise-snr-low --augment-noise-snr-high --augment-silence-probability
            --augment-silence --augment-crop-probability --augment-crop
            --augment-lowpass-probability --augment-lowpass-low --augment-max-seconds
            --augment-mel-warp --augment-mel-tilt --augment-mel-ripple
            --augment-mel-channel-spans --augment-mel-channel-width --augment-mel-time-spans
            --augment-mel-time-width --output --config --print-config --resume --force
            --dry-run --eval-only --part --keep --save-seconds --save-every --eval-every
            --log-every --time-limit --device --precision --threads --loader-threads
            --cache-mb --feature-cache-mb --json --no-progress --quiet --verbose --help
            --version' -- "$cur"))
        return
    elif [[ $words != @ ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
        return
    fi
    local IFS=$'\n'
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -f -- "$cur"))
    if [[ $prev == -a || $prev == --arch ]]; then
        COMPREPLY+=($(compgen -W 'ser-mini' -- "$cur"))
    fi
}

complete -F _ser_train ser-train
