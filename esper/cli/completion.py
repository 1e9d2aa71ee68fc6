"""Shell completion: the scripts that a shell evaluates, and the words that it is offered.

Hydra's own completion composes without the schema, which only `Composer` registers: it finds groups and no
keys. Its script for bash also takes `=` out of the shell's word breaks, for every other command as well.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from esper.cli.candidates import candidates
from esper.config.messages import error_message, nearest_name
from esper.errors import ConfigError

_FLAG = "--shell-completion"
_BASH = """\
_esper_train_complete() {
    local line="${COMP_LINE:0:COMP_POINT}" IFS=$'\\n'
    local word="${line##*[[:space:]]}"
    COMPREPLY=($(COMP_LINE="$line" "$1" --shell-completion query=bash 2>/dev/null))
    # the shell replaces what stands after its last word break (= or :), not the whole word
    local kept="${word%"$2"}"
    COMPREPLY=("${COMPREPLY[@]#"$kept"}")
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} != *[=./] ]]; then
        compopt +o nospace 2>/dev/null
    fi
    return 0
}
complete -o nospace -o default -F _esper_train_complete esper-train"""
_FISH = """\
function __esper_train_complete
    set -lx COMP_LINE (commandline -cp)
    set -l command (commandline -cpo)[1]
    $command --shell-completion query=fish 2>/dev/null
end
complete -c esper-train -f -a '(__esper_train_complete)'"""
_INSTALL = {
    "bash": _BASH,
    "fish": _FISH,
    # zsh runs bash's completions once it is asked to
    "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{_BASH}",
}
_REMOVED = "complete -r esper-train 2>/dev/null\nunset -f _esper_train_complete"
_UNINSTALL = {
    "bash": _REMOVED,
    "fish": "complete -e -c esper-train\nfunctions -e __esper_train_complete",
    "zsh": _REMOVED,
}


def shell_completion(words: Sequence[str]) -> str:
    """What `--shell-completion` prints for `install=<shell>`, `uninstall=<shell>` or `query=<shell>`.

    A query reads the line up to the cursor from the variable `COMP_LINE`.

    Raises:
        ConfigError: for any other words.
    """
    action, _, shell = (words[0] if len(words) == 1 else "").partition("=")
    if action not in ("install", "uninstall", "query"):
        raise ConfigError(
            error_message(_FLAG, " ".join(words), "install=<shell> or uninstall=<shell>", "install=bash")
        )
    if shell not in _INSTALL:
        expected = f"{action}=<shell>, with one of {', '.join(_INSTALL)}"
        near = f"{action}={nearest_name(shell, _INSTALL) if shell else 'bash'}"
        raise ConfigError(error_message(_FLAG, words[0], expected, near))
    if action == "query":
        return "\n".join(complete(os.environ.get("COMP_LINE", "")))
    return (_INSTALL if action == "install" else _UNINSTALL)[shell]


def complete(line: str) -> list[str]:
    """The words that may stand at the end of a line which begins with the command; none for an open quote."""
    try:
        words = shlex.split(line)
    except ValueError:
        return []
    current = "" if not words or line[-1].isspace() else words.pop()
    return candidates(words[1:], current)
