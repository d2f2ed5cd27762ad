"""Man pages and completions say what --help says: no option more, none less."""

import os
import pathlib
import re
import shutil

import pytest

from harness import ROOT, STACKSAMPLE, Terminal, run

MAN = ROOT / "docs/man"
COMPLETIONS = ROOT / "scripts/completions"
SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"]
SECTIONS_OF_RUN = [*SECTIONS, "OUTPUT FILES", "ENVIRONMENT", "SIGNALS", "NOTES", "BUGS"]


@pytest.fixture(autouse=True)
def _one_at_a_time():
    """Nothing here needs rings."""
    yield


def help_of(*words):
    return run([STACKSAMPLE, *words, "--help"]).stdout.decode()


COMMANDS = re.findall(r"^  stacksample (\w+) ", help_of(), re.M)


def options_of_help(command):
    """{"--output": "-o", "--stamp": None, ...}"""
    rows = re.findall(r"^  (?:(-\w), |    )(--[\w-]+)", help_of(command), re.M)
    assert len(rows) > 0
    return {name: letter or None for letter, name in rows}


def words_of_help(command):
    options = options_of_help(command)
    return {*options, *(letter for letter in options.values() if letter)}


def page(command):
    return MAN / (f"stacksample-{command}.1" if command else "stacksample.1")


def test_a_page_for_every_command():
    assert len(COMMANDS) >= 5
    pages = {p.name for p in MAN.glob("*.1")}
    assert pages == {page(c).name for c in ["", *COMMANDS]}
    overview = page("").read_text()
    for command in COMMANDS:
        assert f".Xr stacksample-{command} 1" in overview
    for name in pages:
        for other in re.findall(r"^\.Xr (stacksample\S*) 1", (MAN / name).read_text(), re.M):
            assert f"{other}.1" in pages


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_page_is_clean(command):
    if not shutil.which("mandoc"):
        pytest.skip("no mandoc")
    lint = run(["mandoc", "-Tlint", str(page(command))]).stdout.decode().splitlines()
    # Which other pages are installed is this machine's affair.
    assert [line for line in lint if "referenced manual not found" not in line] == []
    shown = run(["mandoc", "-Tascii", "-Owidth=80", str(page(command))])
    assert b"stacksample" in shown.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_sections(command):
    found = re.findall(r"^\.Sh (.*)$", page(command).read_text(), re.M)
    for section in SECTIONS_OF_RUN if command == "run" else SECTIONS:
        assert section in found


@pytest.mark.parametrize("command", COMMANDS)
def test_help_as_a_command(command):
    assert run([STACKSAMPLE, "help", command]).stdout.decode() == help_of(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_page_has_the_options_of_help(command):
    text = page(command).read_text()
    options = text.split(".Sh OPTIONS\n")[1].split("\n.Sh ")[0]
    rows = re.findall(r"^\.It Fl (?:(\w) , Fl )?-([\w-]+)", options, re.M)
    found = {f"--{name}": f"-{letter}" if letter else None for letter, name in rows}
    assert found == options_of_help(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_page_has_the_defaults_of_help(command):
    """A default that is a number or a name stands in the page, too."""
    text = re.sub(r"^\.\S+ ?", "", page(command).read_text(), flags=re.M)
    for line in help_of(command).split("\noptions:\n")[1].splitlines():
        default = re.search(r" \(([\d%,a-z-]*[\d%-][\d%,a-z-]*)\)$", line)
        if default:
            number = re.sub(r"[sm]$", "", default[1])
            assert number in text, line


# ---- completions -----------------------------------------------------------------


def bash(words, extra=""):
    """What bash would offer for the last of the words."""
    script = f"""
{extra}
. "{COMPLETIONS}/stacksample.bash"
read -r _ _ function name < <(complete -p stacksample)
[ "$name" = stacksample ] || exit 9
compopt() {{ :; }}
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${{#COMP_LINE}}
"$function" stacksample "${{!#}}" "${{COMP_WORDS[COMP_CWORD - 1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = run(["bash", "--norc", "-c", script, "bash", "stacksample", *words])
    assert done.returncode == 0 and done.stderr == b"", done
    return set(done.stdout.decode().split())


def test_bash_commands():
    assert {*COMMANDS, "--help", "--version"} == bash([""])
    assert bash(["re"]) == {"report"}


@pytest.mark.parametrize("command", COMMANDS)
def test_bash_options(command):
    assert bash([command, "-"]) == words_of_help(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_bash_values(command):
    """Behind an option that takes a value none of the options is offered."""
    takes = re.findall(r"(--[\w-]+) [A-Z]+ ", help_of(command))
    for option in takes:
        assert not bash([command, option, "-"]) & words_of_help(command), option
    assert all(bash([command, o, "--he"]) == {"--help"} for o in options_of_help(command)
               if o not in takes)


def test_bash_lists_and_files(tmp_path):
    (tmp_path / "reports").mkdir()
    assert bash(["run", "--env", ""]) == {"full", "redacted", "none"}
    assert bash(["run", "--env", "=", "re"]) == {"redacted"}
    assert bash(["run", "--format", "folded,sp"]) == {"folded,speedscope"}
    assert bash(["run", "-o", f"{tmp_path}/re"]) == {f"{tmp_path}/reports"}
    assert str(os.getpid()) in bash(["dump", str(os.getpid())[:-1]])


def test_bash_leaves_the_command_alone():
    """Behind `--` the words are the launched command's."""
    assert not bash(["run", "--", "true", "--"]) & words_of_help("run")
    library = pathlib.Path("/usr/share/bash-completion/bash_completion")
    if library.exists():
        assert "truncate" in bash(["run", "-q", "--", "trunc"], f". {library}")


def fish(line):
    source = f'source "{COMPLETIONS}/stacksample.fish"; complete -C \'stacksample {line}\''
    done = run(["fish", "--no-config", "-c", source])
    assert done.returncode == 0 and done.stderr == b""
    return {row.split("\t")[0] for row in done.stdout.decode().splitlines()}


def test_fish():
    if not shutil.which("fish"):
        pytest.skip("no fish")
    assert set(COMMANDS) == fish("")
    for command in COMMANDS:
        letters = {o for o in words_of_help(command) if not o.startswith("--")}
        assert fish(f"{command} -") >= letters
        assert fish(f"{command} --") == set(options_of_help(command))
    assert fish("run --env ") == {"full", "redacted", "none"}
    assert not fish("run -- true --") & set(options_of_help("run"))


@pytest.mark.parametrize("command", COMMANDS)
def test_zsh(command, tmp_path):
    if not shutil.which("zsh"):
        pytest.skip("no zsh")
    env = {"TERM": "dumb", "PS1": "> ", "ZDOTDIR": str(tmp_path)}
    shell = Terminal(["zsh", "-f", "-i"], rows=200, cols=500, env=env)
    try:
        shell.send(
            f"fpath=('{COMPLETIONS}' $fpath); autoload -U compinit; compinit -u -D; "
            "LISTMAX=10000; unsetopt auto_menu; print -r -- rea''dy\n".encode()
        )
        start = shell.until(b"ready\r\n")
        shell.send(f"stacksample {command} --\t\t".encode())
        # The prompt comes again below the list; one that is alone is filled in.
        names = set(options_of_help(command))
        end = shell.until(b"--help ", start)
        if len(names) > 1:
            end = shell.until(b"> stacksample", end)
        assert {o.decode() for o in re.findall(rb"\n(--[\w-]+) ", shell.text[start:end])} == (
            names if len(names) > 1 else set()
        )
    finally:
        shell.close()
