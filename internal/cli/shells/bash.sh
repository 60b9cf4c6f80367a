# bash completion for nimbus: source <(nimbus completion bash)
_nimbus() {
    local line=${COMP_LINE:0:COMP_POINT} word about
    local -a words
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    # What stands before the program, like VARIABLE=value, is none of ours.
    while ((${#words[@]} > 1)) && [[ ${words[0]##*/} != nimbus ]]; do words=("${words[@]:1}"); done
    # bash takes a word apart at these, and replaces the last part alone.
    local last=${words[-1]}
    local before=${last%"${last##*[=:]}"}
    COMPREPLY=()
    while IFS=$'\t' read -r word about; do
        COMPREPLY+=("${word#"$before"}")
    done < <("${words[0]/#\~/$HOME}" __complete "${words[@]:1}" 2>/dev/null)
}
complete -o default -F _nimbus nimbus
