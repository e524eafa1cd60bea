"""Agents on their way to a worker: what arrives, and what is refused before it leaves."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import cast

import cloudpickle
import msgspec
import pytest

import retinue
from retinue import FileRead
from retinue.actors.agent import shipping
from retinue.actors.agent.shipping import name_of, ship, unship
from retinue.actors.agent.turn import AgentFunction, Turn
from retinue.actors.agent.versions import installed
from retinue.actors.domain.errors import Busy, InvalidAgent, RetinueError

ROOT = str(Path(retinue.__file__).parent.parent)
LOCK = threading.Lock()
GREETING = "hello"


async def greet(turn: Turn, prompt: str) -> str:
    return f"{GREETING} {prompt}"


async def repeat(times: int, turn: Turn, prompt: str) -> str:
    return times * prompt


class Counter:
    """An agent that holds something."""

    def __init__(self, start: int) -> None:
        self.start = start

    async def __call__(self, turn: Turn, prompt: str) -> str:
        return f"{self.start} {prompt}"

    async def method(self, turn: Turn, prompt: str) -> str:
        return f"{self.start} by method {prompt}"


def closure(word: str) -> AgentFunction:
    async def agent(turn: Turn, prompt: str) -> str:
        return f"{word} {prompt}"

    return agent


def run(agent: AgentFunction, prompt: str = "you") -> object:
    async def one() -> object:
        return await agent(cast(Turn, None), prompt)

    return asyncio.run(one())


def run_elsewhere(blob: bytes) -> str:
    """What an agent says in a process that shares nothing with this one but this package."""
    program = (
        "import asyncio, sys\n"
        "from retinue.actors.agent.shipping import unship\n"
        "from retinue.actors.domain.errors import InvalidAgent\n"
        "try:\n"
        "    agent = unship(sys.stdin.buffer.read())\n"
        "except InvalidAgent as error:\n"
        "    print('InvalidAgent', error)\n"
        "else:\n"
        "    print(asyncio.run(agent(None, 'you')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=blob,
        capture_output=True,
        check=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    return done.stdout.decode().strip()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of scripts that is on this process's import path."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def module(folder: Path, name: str, text: str) -> ModuleType:
    (folder / f"{name}.py").write_text(text)
    importlib.invalidate_caches()
    return importlib.import_module(name)


# What arrives


@pytest.mark.parametrize(
    ("agent", "says"),
    [
        (greet, "hello you"),
        (functools.partial(repeat, 2), "youyou"),
        (functools.partial(functools.partial(repeat), 3), "youyouyou"),
        (Counter(7), "7 you"),
        (Counter(7).method, "7 by method you"),
        (closure("dear"), "dear you"),
    ],
)
def test_an_async_callable_arrives_as_it_was(agent: AgentFunction, says: str) -> None:
    shipped = ship(agent)
    assert run(unship(shipped.blob)) == says
    assert shipped.digest == hashlib.sha256(shipped.blob).hexdigest()


def test_the_module_of_an_agent_travels_with_it(folder: Path) -> None:
    script = module(
        folder,
        "orchard_script",
        "WORD = 'dear'\n"
        "def polite(text): return f'{WORD} {text}'\n"
        "class Box:\n"
        "    def __init__(self, text): self.text = text\n"
        "async def agent(turn, prompt): return Box(polite(prompt)).text\n",
    )
    blob = ship(script.agent).blob
    (folder / "orchard_script.py").unlink()
    assert run_elsewhere(blob) == "dear you"


def test_other_modules_are_found_by_the_senders_path(folder: Path) -> None:
    module(folder, "orchard_helper", "def polite(text): return f'dear {text}'\n")
    script = module(
        folder,
        "orchard_user",
        "import orchard_helper\n"
        "async def agent(turn, prompt): return orchard_helper.polite(prompt)\n",
    )
    blob = ship(script.agent).blob
    assert run_elsewhere(blob) == "dear you"
    (folder / "orchard_helper.py").unlink()
    answer = run_elsewhere(blob)
    assert answer.startswith("InvalidAgent the agent can't be opened at the worker: ")
    assert "No module named 'orchard_helper'" in answer
    assert "must be installed there" in answer


def test_a_script_that_is_run_ships_its_agents(tmp_path: Path) -> None:
    script = tmp_path / "main_script.py"
    script.write_text(
        "import sys\n"
        "from retinue.actors.agent.shipping import ship\n"
        "WORD = 'dear'\n"
        "async def agent(turn, prompt): return f'{WORD} {prompt}'\n"
        "if __name__ == '__main__':\n"
        "    sys.stdout.buffer.write(ship(agent).blob)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    script.unlink()
    assert run_elsewhere(done.stdout) == "dear you"


def test_what_is_installed_is_not_copied() -> None:
    installed: object = asyncio.sleep
    assert unship(ship(cast(AgentFunction, installed)).blob) is installed


async def reads(turn: Turn, prompt: str, action: type[FileRead] = FileRead) -> str:
    assert issubclass(Busy, RetinueError)
    return action(path=prompt).path


def test_public_classes_are_named_without_the_module_that_they_are_in() -> None:
    assert run(unship(ship(reads).blob), "/a") == "/a"
    pickled = msgspec.msgpack.decode(ship(reads).blob)["pickle"]
    assert b"FileRead" in pickled
    assert b"RetinueError" in pickled
    assert FileRead.__module__.encode() not in pickled
    assert RetinueError.__module__.encode() not in pickled


def test_a_public_name_that_is_gone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    blob = ship(reads).blob
    monkeypatch.setattr(retinue, "__all__", [])
    with pytest.raises(InvalidAgent, match=r"there is no public \w+ in this"):
        unship(blob)


@pytest.mark.parametrize("use", ["orchard_old.polite", "polite", "rude"])
def test_what_has_moved_or_has_another_name_is_found(
    use: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "def polite(text): return f'dear {text}'\ndef {}(text): return polite(text)\n"
    module(folder, "orchard_old", text.replace("{}", "rude"))
    script = module(
        folder,
        "orchard_new_user",
        "import orchard_old\nfrom orchard_old import polite, rude\n"
        f"async def agent(turn, prompt): return {use}(prompt)\n",
    )
    blob = ship(script.agent).blob
    del sys.modules["orchard_old"]
    (folder / "orchard_old.py").unlink()
    module(folder, "orchard_new", text.replace("{}", "frank"))
    moved = {"orchard_old": "orchard_new", "orchard_old:rude": "orchard_new:frank"}
    monkeypatch.setattr(shipping, "MOVED", moved)
    assert run(unship(blob)) == "dear you"


@pytest.mark.parametrize("place", sorted({*shipping.BEFORE.values(), *shipping.MOVED.values()}))
def test_what_has_moved_is_where_the_table_says(place: str) -> None:
    module, _, name = place.partition(":")
    assert not name or hasattr(importlib.import_module(module), name)


def test_shipping_changes_nothing_for_what_is_pickled_next(folder: Path) -> None:
    script = module(
        folder,
        "orchard_lock",
        "import threading\n"
        "LOCK = threading.Lock()\n"
        "async def good(turn, prompt): return prompt\n"
        "async def bad(turn, prompt): return LOCK\n",
    )
    ship(script.good)
    with pytest.raises(InvalidAgent):
        ship(script.bad)
    assert cloudpickle.list_registry_pickle_by_value() == set()


def test_the_same_function_is_pickled_once() -> None:
    assert ship(greet) is ship(greet)


def test_what_an_agent_holds_is_what_it_holds_now() -> None:
    counter = Counter(1)
    first = ship(counter)
    counter.start = 2
    assert run(unship(ship(counter).blob)) == "2 you"
    assert run(unship(first.blob)) == "1 you"
    words: list[str] = []

    async def listing(turn: Turn, prompt: str) -> str:
        return ",".join([*words, prompt])

    ship(listing)
    words.append("dear")
    assert run(unship(ship(listing).blob)) == "dear,you"


# What is refused before it leaves


def plain(turn: Turn, prompt: str) -> str:
    return prompt


def generator(turn: Turn, prompt: str) -> Iterator[str]:
    yield prompt


async def async_generator(turn: Turn, prompt: str) -> AsyncIterator[str]:
    yield prompt


class Plain:
    def __call__(self, turn: Turn, prompt: str) -> str:
        return prompt


@pytest.mark.parametrize(
    ("agent", "says"),
    [
        (plain, "plain is not async; write `async def`"),
        (generator, "generator is not async"),
        (async_generator, "async_generator is not async"),
        (lambda turn, prompt: prompt, "<lambda> is not async"),
        (functools.partial(plain), "plain is not async"),
        (Plain(), "is not async"),
        (Counter, "Counter is not async"),
        (print, "print is not async"),
        (None, "None is not callable; give an async function"),
        (7, "7 is not callable"),
        ("examples/survey.py:survey", "'examples/survey.py:survey' is not callable"),
    ],
)
def test_what_is_no_async_callable_is_refused_by_name(agent: object, says: str) -> None:
    with pytest.raises(InvalidAgent) as caught:
        ship(cast(AgentFunction, agent))
    assert caught.value.message.startswith("agent: ")
    assert says in caught.value.message
    assert "\n" not in caught.value.message


async def uses_a_lock(turn: Turn, prompt: str) -> str:
    with LOCK:
        return prompt


def closed_over_a_lock() -> AgentFunction:
    lock = threading.Lock()

    async def agent(turn: Turn, prompt: str) -> str:
        with lock:
            return prompt

    return agent


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (uses_a_lock, "uses_a_lock"),
        (closed_over_a_lock(), "agent"),
        (functools.partial(repeat, cast(int, threading.Lock())), "repeat"),
        (Counter(cast(int, threading.Lock())), "Counter"),
    ],
)
def test_what_does_not_pickle_is_refused_with_the_reason(agent: AgentFunction, name: str) -> None:
    with pytest.raises(InvalidAgent, match=f"^agent: {name} does not pickle: ") as caught:
        ship(agent)
    assert "without open files, locks or clients in globals" in caught.value.message


# What is refused where it arrives


def test_an_agent_of_another_python_is_refused_naming_both() -> None:
    parcel = msgspec.msgpack.decode(ship(greet).blob)
    parcel["python"] = "3.99"
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    with pytest.raises(InvalidAgent, match=f"by Python 3.99 and this worker runs {here}") as caught:
        unship(msgspec.msgpack.encode(parcel))
    assert caught.value.details == {"sender": "3.99", "worker": here}


def test_the_other_pythons_pickle_is_not_even_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    parcel = msgspec.msgpack.decode(ship(greet).blob)
    parcel |= {"python": "3.99", "paths": ["/"], "pickle": b"no pickle"}
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(InvalidAgent, match="Python"):
        unship(msgspec.msgpack.encode(parcel))
    assert "/" not in sys.path


def test_a_parcel_says_what_it_was_made_with() -> None:
    parcel = msgspec.msgpack.decode(ship(greet).blob)
    assert parcel["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert parcel["cloudpickle"] == cloudpickle.__version__
    assert parcel["retinue"] == installed("retinue")


def test_the_pickle_of_another_major_cloudpickle_is_not_even_opened() -> None:
    parcel = msgspec.msgpack.decode(ship(greet).blob)
    parcel |= {"cloudpickle": "99.1", "pickle": b"no pickle"}
    here = cloudpickle.__version__
    with pytest.raises(InvalidAgent, match=f"by cloudpickle 99.1 and .* runs {here}: ") as caught:
        unship(msgspec.msgpack.encode(parcel))
    assert "submit it again from what the worker runs" in caught.value.message
    assert caught.value.details == {"sender": "99.1", "worker": here}


def test_another_minor_cloudpickle_or_retinue_is_tried_and_named_if_it_fails() -> None:
    other = f"{cloudpickle.__version__.partition('.')[0]}.999"
    parcel = msgspec.msgpack.decode(ship(greet).blob)
    parcel |= {"cloudpickle": other, "retinue": "9.9"}
    assert run(unship(msgspec.msgpack.encode(parcel))) == "hello you"
    with pytest.raises(InvalidAgent, match=f"made with cloudpickle {other} ") as caught:
        unship(msgspec.msgpack.encode(parcel | {"pickle": b"no pickle"}))
    assert "and Retinue 9.9 (here " in caught.value.message


def test_an_agent_that_says_no_versions_is_tried() -> None:
    parcel = msgspec.msgpack.decode(ship(greet).blob)
    del parcel["cloudpickle"], parcel["retinue"]
    assert run(unship(msgspec.msgpack.encode(parcel))) == "hello you"


@pytest.mark.parametrize("content", [b"", b"no pickle", b"cno_such_module\nname\n."])
def test_what_does_not_open_is_said(content: bytes) -> None:
    parcel = msgspec.msgpack.decode(ship(greet).blob) | {"pickle": content}
    with pytest.raises(InvalidAgent, match="the agent can't be opened at the worker: "):
        unship(msgspec.msgpack.encode(parcel))


def test_the_senders_path_comes_after_the_workers_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [ROOT])
    parcel = msgspec.msgpack.decode(ship(greet).blob)
    parcel["paths"] = [str(tmp_path), str(tmp_path / "not there"), ROOT, str(tmp_path)]
    unship(msgspec.msgpack.encode(parcel))
    assert sys.path == [ROOT, str(tmp_path)]


def test_installed_folders_do_not_travel() -> None:
    paths = msgspec.msgpack.decode(ship(greet).blob)["paths"]
    assert paths
    assert not [path for path in paths if shipping._installed(path)]


# Names


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (greet, "greet"),
        (functools.partial(repeat, 2), "repeat"),
        (Counter(1), "Counter"),
        (Counter(1).method, "method"),
        (closure("dear"), "agent"),
    ],
)
def test_agents_have_names_for_people(agent: AgentFunction, name: str) -> None:
    assert name_of(agent) == name
    assert ship(agent).name == name
