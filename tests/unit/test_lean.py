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


LEFT_OUT = """
import sys
import pg_collector.agent, pg_collector.web, pg_collector.cli.start
names = "html html.entities multiprocessing concurrent.futures.process pickletools idna"
print(*(name for name in names.split() if name in sys.modules))
import html, idna, multiprocessing, concurrent.futures.process, http.server
print(html.unescape("&eacute;"), idna.encode("é.de").decode(), multiprocessing.cpu_count() > 0)
print(http.server.html.escape("<a href='x'>&\\"", quote=True) == html.escape("<a href='x'>&\\""))
print(http.server.html.escape("<'>", quote=False) == html.escape("<'>", quote=False))
"""


def test_libraries_come_without_what_they_do_not_use_and_others_can_have_it():
    run = [sys.executable, "-W", "error", "-c", LEFT_OUT]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True)
    first, *others = done.stdout.split("\n")
    assert first == ""
    assert others == ["é xn--9ca.de True", "True", "True", ""]
    assert done.stderr == ""
