"""Wrong command lines, said in one line: for a group of commands and for one that stands alone."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from ptycho_torch.cli.console import EXIT_INTERRUPTED, EXIT_USAGE, UsageProblem, fail

__all__ = ["OneLineCommand", "OneLineGroup"]


class OneLineGroup(TyperGroup):
    """Commands under one name that say in one line what is wrong, and as JSON where that was asked for."""

    def main(self, *args: Any, **more: Any) -> Any:
        """Run, and exit."""
        return _run(super().main, *args, **more)


class OneLineCommand(TyperCommand):
    """A command that says in one line what is wrong when it stands alone, and whose usage line is the usual one."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return arguments and options, switches without the value that they do not take."""
        found = super().get_params(ctx)
        for option in found:
            if getattr(option, "is_flag", False):
                option.metavar = ""
        return found

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return ``[OPTIONS] SCAN [BUNDLE]``, without arguments that are hidden from the help."""
        arguments = [
            a for a in self.params if a.param_type_name == "argument" and not getattr(a, "hidden", False)
        ]
        names = [(a, getattr(a, "metavar", None) or str(a.name).upper()) for a in arguments]
        return [self.options_metavar or "", *(name if a.required else f"[{name}]" for a, name in names)]

    def main(self, *args: Any, **more: Any) -> Any:
        """Run, and exit."""
        return _run(super().main, *args, **more)


def _run(
    main: Callable[..., Any],
    args: Sequence[str] | None = None,
    prog_name: str | None = None,
    complete_var: str | None = None,
    standalone_mode: bool = True,
    **extra: Any,
) -> Any:
    words = list(sys.argv[1:] if args is None else args)
    more = {"complete_var": complete_var, "standalone_mode": False, **extra}
    if not standalone_mode:
        return main(words, prog_name, **more)
    try:
        status = main(words, prog_name, **more)
    except typer.Abort:
        fail("interrupted", "Abort", json="--json" in words)
        status = EXIT_INTERRUPTED
    except UsageProblem as error:
        status = EXIT_USAGE
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(str(error), err=True)
        else:
            fail(_advised(error), type(error).__name__, json="--json" in words)
    sys.exit(status if isinstance(status, int) else 0)


def _advised(error: Any) -> str:
    """What is wrong, the nearest flag that there is, and where to read on."""
    text, context = error.format_message().rstrip("."), getattr(error, "ctx", None)
    if context is None:
        return f"{text}; --help shows what there is"
    argument = getattr(error, "param", None)
    if argument is not None and text.startswith("Missing"):
        text += f" ({argument.help.rstrip('.')})" if getattr(argument, "help", None) else ""
    wrong = getattr(error, "option_name", None)
    if wrong and not error.possibilities:
        known = [flag for option in context.command.params for flag in option.opts if flag.startswith("--")]
        near = difflib.get_close_matches(wrong, known, n=1)
        text += f"; did you mean {near[0]}?" if near else ""
    return f"{text}; '{context.command_path} --help' shows what there is"
