"""A line for each step of the harness with the seconds it took.

On a terminal, running steps show a spinner and a clock; elsewhere (CI, a pipe) a step prints
one line when it begins and one when it ends. Goes to standard error: standard output is data.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

console = Console(stderr=True, highlight=False)

# One display for nested steps: rich allows a single live area at a time.
_display = Progress(
    SpinnerColumn(),
    TextColumn("{task.description}"),
    TimeElapsedColumn(),
    console=console,
    transient=True,
)


def note(text: str) -> None:
    """Print one line that is not a step."""
    console.print(escape(text), soft_wrap=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show a step while its block runs, and how long it took, in seconds."""
    began = time.monotonic()
    if not console.is_terminal:
        note(f"  … {title}")
        try:
            yield
        except BaseException:
            note(f"  ✗ {title} ({time.monotonic() - began:.1f} s)")
            raise
        note(f"  ✓ {title} ({time.monotonic() - began:.1f} s)")
        return
    outermost = not _display.tasks
    if outermost:
        _display.start()
    task = _display.add_task(escape(title), total=None)
    mark = "[red]✗[/]"
    try:
        yield
        mark = "[green]✓[/]"
    finally:
        _display.remove_task(task)
        if outermost:
            _display.stop()
        console.print(
            f"  {mark} {escape(title)} ({time.monotonic() - began:.1f} s)", soft_wrap=True
        )
