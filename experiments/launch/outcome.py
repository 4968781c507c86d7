"""What the exit codes of a run's processes mean, and so whether it is started again."""

from collections.abc import Sequence

from cnn.stopping import EXIT_INTERRUPTED, EXIT_LOST

EXIT_DONE, EXIT_BUG, EXIT_MISTAKE = 0, 1, 2
DONE, AGAIN, LOST = "done", "saved and stopped", "lost a process"
MISTAKE, BUG = "a mistake: its log names it", "the run failed: its log says how"
RESUMED = (AGAIN, LOST)
SIGNALLED = 128  # a shell's exit code of a process that signal N ended is 128 + N; ssh's for a lost machine is 255


def judge(codes: Sequence[int]) -> str:
    """The outcome of a run.

    A user's mistake anywhere ends it: it would only be made again. Otherwise the first process that failed decides:
    the others fail because of it.

    Args:
      codes: of the processes that ended by themselves, in the order in which they did; negative for a signal, as
        `subprocess` gives it.
    """
    if EXIT_MISTAKE in codes:
        return MISTAKE
    first = next((SIGNALLED - code if code < 0 else code for code in codes if code), EXIT_DONE)
    if first == EXIT_DONE:
        return DONE
    if first == EXIT_INTERRUPTED:
        return AGAIN
    return LOST if first > SIGNALLED or first == EXIT_LOST else BUG


def exit_code(outcome: str) -> int:
    """Of the launcher itself, where the run ends with this outcome."""
    return {DONE: EXIT_DONE, AGAIN: EXIT_INTERRUPTED, LOST: EXIT_INTERRUPTED, MISTAKE: EXIT_MISTAKE}.get(
        outcome, EXIT_BUG
    )
