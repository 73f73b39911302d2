"""What is left out of the process because nobody needs it."""

import subprocess
import sys

PROGRAM = """
import sys
import pg_collector.web
loaded = {name.partition(".")[0] for name in sys.modules}
print(*sorted(loaded & {"charset_normalizer", "chardet", "requests"}))
import charset_normalizer
print(charset_normalizer.__name__)
"""


def test_requests_comes_without_what_guesses_encodings_and_others_can_have_it():
    run = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["requests", "charset_normalizer"]
    assert done.stderr == ""
