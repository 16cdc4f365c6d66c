"""What the commands of this room have in common: how they end, and how they speak of numbers."""

import argparse
import os
import sys
from collections.abc import Callable

BAD_INPUT, SOME_LEFT_OUT, STOPPED = 2, 3, 130


def carry_out(
    command: Callable[[argparse.Namespace], int], args: argparse.Namespace, stopped: str = "stopped"
) -> int:
    """The exit status of `command`; 2 after one line on standard error where input is bad, 130 after `stopped` for Ctrl-C.

    The environment variable KDHASH_TRACEBACK=1 shows where an error comes from.
    """
    try:
        return command(args)
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("KDHASH_TRACEBACK"):
            raise
        print("kdhash: " + " ".join(str(error).split()), file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"kdhash: {stopped}", file=sys.stderr)
        return STOPPED


def counted(number: int, what: str) -> str:
    """'1 picture', '1,797 pictures', '1 query'; `what` is the plural."""
    if number == 1:
        what = what[:-3] + "y" if what.endswith("ies") else what.removesuffix("s")
    return f"{number:,} {what}"


def splits_given(text: str) -> tuple[str, ...]:
    """'train,test' as an argument."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
