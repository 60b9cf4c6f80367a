#compdef nimbus
# zsh completion for nimbus: nimbus completion zsh > "${fpath[1]}/_nimbus"
_nimbus() {
    local -a found
    local word about
    while IFS=$'\t' read -r word about; do
        found+=("${word//:/\\:}:$about")
    done < <("${(Q)words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    if (($#found)); then
        _describe -t nimbus nimbus found
    else
        _files
    fi
}
if [[ $funcstack[1] == _nimbus ]]; then
    _nimbus "$@"
else
    compdef _nimbus nimbus
fi
