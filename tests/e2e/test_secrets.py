"""Secrets of the environment and the arguments never get into a bundle."""

import os


from harness import bundle, command, run

CANARY = "canaryQ7"
SETTINGS = {
    "AWS_SECRET_ACCESS_KEY": CANARY,
    "GITHUB_TOKEN": f"ghp_{CANARY}abcdefghij0123456789",
    "DB_PASSWORD": f"{CANARY} with blanks",
    "PLAIN_NAME": f"https://user:{CANARY}@example.org/x",
    "PYTEST_ADDOPTS": f"-q --db-password={CANARY}",
    "HEADERS": f"Authorization: Bearer {CANARY}.abc",
    "CONFIG": f'{{"client_secret": "{CANARY}"}}',
}
ARGUMENTS = [
    f"--password={CANARY}",
    "--token", CANARY,
    "-p", CANARY,
    f"API_KEY={CANARY}",
    f"postgres://u:{CANARY}@db/x",
    "-H", f"Authorization: Basic {CANARY}",
    f"curl --oauth-token {CANARY} && true",
]


def holding(folder, word):
    """Files of the bundle that have the word anywhere, also in unused pages."""
    return [p.name for p in folder.iterdir() if word.encode() in p.read_bytes()]


def test_no_canary_in_the_bundle(out):
    env = dict(os.environ, **SETTINGS)
    done = run(command(out, "sh", "-c", "exit 4", "sh", *ARGUMENTS), env=env)
    assert done.returncode == 4
    folder = bundle(out)
    assert holding(folder, CANARY) == []
    assert "AWS_SECRET_ACCESS_KEY=<redacted>\n" in (folder / "env.txt").read_text()
    commands = (folder / "commands.txt").read_text()
    assert "'--password=<redacted>'" in commands
    assert "--env full" in commands, "it says that something was redacted"


def test_no_canary_through_the_pipeline(out):
    """Also where wrappers carry them, and in what children are called by."""
    words = ["env", f"SERVICE_TOKEN={CANARY}", "timeout", "60",
             *command(out, "sh", "-c", "sh -c 'exit 0' sh \"$@\"; exit 0", "sh", *ARGUMENTS)]
    assert run(words).returncode == 0
    assert holding(bundle(out), CANARY) == []


def test_no_canary_of_a_command_that_cannot_start(out):
    assert run(command(out, "/no/such/command", *ARGUMENTS)).returncode == 127
    assert holding(bundle(out), CANARY) == []


def test_env_full_keeps_them_on_request(out):
    env = dict(os.environ, **SETTINGS)
    assert run(command(out, "true", *ARGUMENTS, options=["--env", "full"]), env=env).returncode == 0
    folder = bundle(out)
    assert f"AWS_SECRET_ACCESS_KEY={CANARY}\n" in (folder / "env.txt").read_text()
    assert f"--password={CANARY}" in (folder / "commands.txt").read_text()


def test_env_none_keeps_no_environment(out):
    env = dict(os.environ, UNMISTAKABLE="visible-setting")
    assert run(command(out, "true", options=["--env", "none"]), env=env).returncode == 0
    assert not (bundle(out) / "env.txt").exists()


def test_env_txt_is_sorted_and_one_line_each(out):
    env = {"B": "2", "A": "1\nFAKE=3", "PATH": os.environ["PATH"], "C": ""}
    assert run(command(out, "true"), env=env).returncode == 0
    lines = (bundle(out) / "env.txt").read_text().splitlines()
    names = [line.split("=", 1)[0] for line in lines]
    assert names == sorted(names)
    assert "A=1\\x0aFAKE=3" in lines and "C=" in lines and "FAKE=3" not in lines


PYTEST_WORDS = ["-p", "no:cacheprovider", "--maxfail=1", "--durations=0", "-k", "not slow",
                "tests/test_auth.py::TestToken::test_key[a=1]"]


def test_a_pytest_command_line_is_not_redacted(out):
    run(command(out, "python3", "-m", "pytest", *PYTEST_WORDS))
    commands = (bundle(out) / "commands.txt").read_text()
    shown = commands.split("# the command:\n#   ", 1)[1].split("\n", 1)[0]
    assert "<redacted>" not in shown
    for word in PYTEST_WORDS:
        assert word in shown
