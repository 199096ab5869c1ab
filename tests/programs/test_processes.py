"""What keeps a program that tests start from going on for ever."""

import sys

from tests.programs import processes


def test_a_program_that_works_for_ever_is_ended():
    done = processes.run([sys.executable, "-c", "while True: pass"], seconds=1)
    assert done.returncode < 0


def test_programs_that_wait_for_each_other_are_read_together(tmp_path):
    """The first prints its last line when the second has printed more than a pipe holds."""
    flag = tmp_path / "done"
    waiting = f"import pathlib, time\nwhile not pathlib.Path('{flag}').exists(): time.sleep(0.01)\nprint('came')"
    talking = f"import pathlib\nprint('x' * 10**6)\npathlib.Path('{flag}').touch()"
    first, second = processes.finish(*(processes.start([sys.executable, "-c", code]) for code in (waiting, talking)))
    assert first.stdout == "came\n" and len(second.stdout) == 10**6 + 1
