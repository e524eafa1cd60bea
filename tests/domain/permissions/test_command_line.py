"""Which commands a command line is found to run."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.actors.domain.permissions.shell.command_line import commands_run
from retinue.actors.domain.permissions.shell.shell_text import Unreadable


def names(line: str, *args: str) -> list[str]:
    return [words[0] for words in commands_run(line, args)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ls -l", ["ls"]),
        ("/usr/bin/git init", ["git"]),
        ("\\ls 'a;b' \"c|d\"", ["ls"]),
        ("l's' x", ["ls"]),
        ("mkfs.ext4 /x", ["mkfs"]),
        ("A=1 B='2 3' make", ["make"]),
        ("A=1", []),
        ("a; b && c || d | e & f\ng", ["a", "b", "c", "d", "e", "f", "g"]),
        ("(a; b); { c; }", ["a", "b", "{", "c", "}"]),
        ("! a", ["!", "a"]),
        ("if a; then b; else c; fi", ["if", "a", "then", "b", "else", "c", "fi"]),
        ("while a; do b; done", ["while", "a", "do", "b", "done"]),
        ("f() { a; }", ["f", "{", "a", "}"]),
        ("function f { a; }", ["function", "{", "a", "}"]),
        ("case x in a) b;; esac", ["case", "b", "esac"]),
        ("echo $(a `b`) \"$(c '$(d)')\" '$(e)'", ["b", "a", "c", "echo"]),
        ('echo "$(a ")"; b)"; c', ["a", "b", "echo", "c"]),
        ("echo `a \\`b\\``", ["b", "a", "echo"]),
        ("echo $((1 + 2))", ["1", "echo"]),
        ("cat <(a) >(b)", ["a", "b", "cat"]),
        ("> <(a)b c", ["a", "c"]),
        ("> out a", ["a"]),
        ("2>&1 a", ["a"]),
        ("2>&- a", ["a"]),
        ("a2>x", ["a2"]),
        ("<<<text a", ["a"]),
        ("a # b; it's", ["a"]),
        ("# it's\na", ["a"]),
        ("a x#y; b", ["a", "b"]),
        ("a ${#x}; b", ["a", "b"]),
        ("ec\\\nho; a", ["echo", "a"]),
        ("env a", ["env", "a"]),
        ("env -i -u X --chdir /d A=1 b-c=2 a", ["env", "a"]),
        ("env --uns X a", ["env", "a"]),
        ("env -S 'a b'", ["env", "a"]),
        ("env -u X -vS 'A=1 a' b", ["env", "a"]),
        ("env --split-string='a b'", ["env", "a"]),
        ("nice -n 5 a", ["nice", "a"]),
        ("nice -5 a", ["nice", "a"]),
        ("nice -n5 a b", ["nice", "a"]),
        ("nohup -- -a b", ["nohup", "-a"]),
        ("timeout -k 1 -s KILL 5 a", ["timeout", "a"]),
        ("timeout --signal=9 5s nohup a", ["timeout", "nohup", "a"]),
        ("xargs -0 -I {} a {}", ["xargs", "a"]),
        ("sudo -u root -- a", ["sudo", "a"]),
        ("command a; command -v a", ["command", "a", "command"]),
        ("busybox a", ["busybox", "a"]),
        ("sh -c 'a; b'", ["sh", "a", "b"]),
        ("sh -ec a", ["sh", "a"]),
        ("bash -o pipefail -c a", ["bash", "a"]),
        ("bash -oc pipefail a", ["bash", "a"]),
        ("bash --norc -noprofile -c a", ["bash", "a"]),
        ("bash --rcfile f -c -x a", ["bash", "a"]),
        ("sh -c a b", ["sh", "a"]),
        ("sh -c - a", ["sh", "a"]),
        ("sh - a", ["sh"]),
        ("sh a", ["sh"]),
        ("bash --init-file f", ["bash"]),
        ("sh script a", ["sh"]),
        ('sh -c "echo \\"\\$(a)\\" \\`b\\`"', ["sh", "a", "b", "echo"]),
        ("sh -c \"sh -c 'sh -c a'\"", ["sh", "sh", "sh", "a"]),
        ("eval a 'b; c'", ["eval", "a", "c"]),
        ("trap -- a EXIT", ["trap", "a"]),
        ("watch -n 5 a", ["watch", "a"]),
        ("su x -c a", ["su", "a"]),
        ("su -lc a", ["su", "a"]),
        ("flock -w 1 file a", ["flock", "a"]),
        ("find . -exec a {} \\; -name b -execdir c {} +", ["find", "a", "c"]),
        ("git init", ["git"]),
        ("nice git init", ["nice", "git"]),
        ("[ -f x ]", ["["]),
    ],
)
def test_a_line_runs_these(line: str, expected: list[str]) -> None:
    assert names(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "",
        "  ",
        "# nothing",
        "'' a",
        "{ ''",
        "a 'b",
        'a "b',
        "a $(b",
        "a `b",
        "a (b",
        "a \\",
        "$X a",
        "${X} a",
        "$(x) a",
        "`x` a",
        "su{d,}o a",
        "/usr/bin/sud? a",
        "sh -c $X",
        "eval $X",
        "find . -exec {} \\;",
        "env -S '${X} a'",
        "env -S 'a\\_b'",
        "env -S \"-S 'a b'\"",
        "echo $'a'",
        'echo "$(case x in a) b;; esac)"',
        "a\0b",
        "$(" * 100 + ")" * 100,
        "env " * 100 + "a",
        "a" * 200_000,
    ],
)
def test_what_cannot_be_told_is_unreadable(line: str) -> None:
    with pytest.raises(Unreadable):
        commands_run(line)


def test_arguments_are_words_as_they_are() -> None:
    assert commands_run("echo", ("a; b", "$(c)", "'")) == [["echo", "a; b", "$(c)", "'"]]
    assert names("sh", "-c", "a; b") == ["sh", "a", "b"]
    assert names("env A=1", "a") == ["env", "a"]


def test_an_argument_cannot_pass_for_a_mark() -> None:
    with pytest.raises(Unreadable):
        commands_run("cat", ("\0>",))


def test_an_expansion_keeps_its_place_among_the_words() -> None:
    [[*words]] = commands_run("cp $X b")
    assert words[0] == "cp"
    assert words[2] == "b"


def test_long_input_takes_time_in_proportion() -> None:
    started = time.process_time()
    for line in ("a;" * 30_000, "> x " * 20_000 + "a", "find " + "-exec " * 10_000):
        try:
            commands_run(line)
        except Unreadable:
            continue
    assert time.process_time() - started < 2


@settings(max_examples=60)
@given(
    st.text(alphabet="ab '\"\\$(){}`;&|<>#\n-=", max_size=40),
    st.lists(st.text(max_size=5), max_size=2),
)
def test_any_text_is_either_read_or_unreadable(line: str, args: list[str]) -> None:
    try:
        commands = commands_run(line, args)
    except Unreadable:
        return
    assert all(words and words[0] for words in commands)
