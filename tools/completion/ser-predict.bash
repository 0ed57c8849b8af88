# SPDX-License-Identifier: MIT
# Completion of ser-predict for bash. A test holds it against the option table of the program.

_ser_predict()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    fi
    COMPREPLY=()
    case $prev in
    -f|--format)
        COMPREPLY=($(compgen -W 'text jsonl csv rttm audacity textgrid' -- "$cur"))
        return ;;
    --color)
        COMPREPLY=($(compgen -W 'auto always never' -- "$cur"))
        return ;;
    -d|--device)
        COMPREPLY=($(compgen -W 'auto cpu cuda' -- "$cur"))
        return ;;
    --precision)
        COMPREPLY=($(compgen -W 'auto f32 bf16' -- "$cur"))
        return ;;
    -l|--labels|-w|--window|--hop|-c|--channel|--offset|--length|-k|--top-k|-t|--threads|-b|--batch-size)
        return ;;
    esac
    if [[ $cur == -* && $prev != -m && $prev != --model && $prev != -o && $prev != --output ]]; then
        COMPREPLY=($(compgen -W '--model --labels --window --hop --attention --channel --offset
            --length --strict --any-format --format --json --top-k --output --color --no-progress
            --quiet --verbose --device --list-devices --precision --threads --batch-size --help --version' -- "$cur"))
        return
    fi
    local IFS=$'\n'
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -f -- "$cur"))
}

complete -F _ser_predict ser-predict
