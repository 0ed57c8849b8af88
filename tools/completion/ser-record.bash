# SPDX-License-Identifier: MIT
# Completion of ser-record for bash. A test holds it against the option table of the program.

_ser_record()
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
        COMPREPLY=($(compgen -W 'text jsonl' -- "$cur"))
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
    --source)
        COMPREPLY=($(compgen -W 'pulse alsa file: fast: -' -- "$cur"))
        return ;;
    -s|--seconds|--rate|--channels|-l|--labels|-w|--window|--hop|--smoothing|--gate|-t|--threads)
        return ;;
    esac
    if [[ $prev == -m || $prev == --model || $prev == -o || $prev == --output ]]; then
        local IFS=$'\n'
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -f -- "$cur"))
        return
    fi
    COMPREPLY=($(compgen -W '--seconds --continuous --output --force --source --list-devices --rate
        --channels --model --labels --no-predict --attention --window --hop --smoothing --gate
        --format --json --levels --color --quiet --verbose --device --precision --threads --help
        --version' -- "$cur"))
}

complete -F _ser_record ser-record
