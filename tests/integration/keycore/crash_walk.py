"""Runs one use case again and again, killing the process at the next step each time.

Started by ``test_crash_safety.py`` as a program of its own, because it forks: a
PKCS#11 module must be loaded after the fork, so this process never loads one. A
step is any moment just before or after a call of the HSM module, an SQL
statement, a commit, or a file operation inside the state directory.

Prints one JSON object: how many steps there were, and every broken promise.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.pool import Pool

import keycore.adapters.migrations  # noqa: F401  (an import inside a step would be a step)
from keycore import bootstrap
from keycore import initialise as initialise_module
from keycore.adapters import softhsm
from keycore.adapters.pkcs11_module import Pkcs11Module
from keycore.bootstrap import Core, open_core
from keycore.domain.ids import InstanceId, KeyId
from keycore.domain.keys import KeyState, VersionState
from keycore.errors import AlreadyInitialisedError, KeyDeletedError
from keycore.initialise import initialise
from keycore.ports import KeyFilter
from keycore.service.caller import Caller
from keycore.service.creation import NewKey
from keycore.settings import ProviderSettings, Settings

CALLER = Caller("cli", "tests")
OWNER = "kubernetes/00000000-0000-4000-8000-000000000001"
STEPS_MAX = 400


class Killer:
    """Counts steps and ends the process, without a chance to clean up, at one of them."""

    def __init__(self, state_dir: Path, at: int) -> None:
        self._state_dir = str(state_dir)
        self._at = at
        self._count = 0
        self._armed = False
        self._lock = threading.RLock()

    def install(self) -> None:
        guarded = partial(Pkcs11Module, guard=self)
        for module in (bootstrap, initialise_module, softhsm):
            module.Pkcs11Module = guarded
        for name in ("before_cursor_execute", "after_cursor_execute", "commit"):
            event.listen(Engine, name, self._step_event)
        event.listen(Pool, "checkin", self._step_event)
        sys.addaudithook(self._file_hook)

    @contextlib.contextmanager
    def armed(self) -> Any:
        self._armed = True
        yield
        self._armed = False

    def step(self) -> None:
        if self._armed:
            self._count += 1
            if self._count == self._at:
                os.kill(os.getpid(), signal.SIGKILL)

    def __enter__(self) -> None:
        self._lock.acquire()
        self.step()

    def __exit__(self, *_: object) -> None:
        self.step()
        self._lock.release()

    def _step_event(self, *_: Any) -> None:
        self.step()

    def _file_hook(self, name: str, arguments: tuple[Any, ...]) -> None:
        touched = name in {"open", "os.rename", "os.mkdir", "os.chmod", "os.remove"}
        if touched and str(arguments[0]).startswith(self._state_dir):
            self.step()


@dataclass
class Prepared:
    """What the state directory held before the use case ran."""

    instance: str = ""
    key: str = ""
    other_key: str = ""
    wrapped: list[int] = field(default_factory=list)
    kms: list[Any] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)


def settings_of(state_dir: Path) -> Settings:
    return Settings(state_dir=state_dir, provider=ProviderSettings(node="node-a"))


# --- what lies in the store before ---------------------------------------------


def prepare_nothing(_: Path) -> Prepared:
    return Prepared()


def prepare_key(state_dir: Path, *, bind: bool = False, bind_nodes: bool = False) -> Prepared:
    made = initialise(settings_of(state_dir), CALLER)
    with open_core(settings_of(state_dir), "cli") as core:
        instance = made.instance.id
        key = core.keys.create(CALLER, instance, NewKey("first"))
        other = core.keys.create(CALLER, instance, NewKey("second"))
        prepared = Prepared(instance, key.id, other.id)
        prepared.wrapped = list(core.wrapping.wrap(CALLER, instance, key.id, b"text").ciphertext)
        prepared.blobs = [version.wrapped.hex() for version in key.versions if version.wrapped]
        if bind:
            core.providers.bind(CALLER, "keyplane", key.id)
        if bind_nodes:
            core.kms.refresh()
            ciphertext, key_id = core.kms.encrypt(CALLER, b"seed")
            prepared.kms = [list(ciphertext), key_id]
    return prepared


prepare_bound = partial(prepare_key, bind=True, bind_nodes=True)


# --- the use cases -----------------------------------------------------------


def do_create(core: Core, p: Prepared) -> None:
    core.keys.create(CALLER, InstanceId(p.instance), NewKey("third", owner=OWNER))


def do_import(core: Core, p: Prepared) -> None:
    wanted = NewKey("third", owner=OWNER, material=bytes(range(64)))
    core.keys.create(CALLER, InstanceId(p.instance), wanted)


def do_create_repeatably(core: Core, p: Prepared) -> None:
    wanted = NewKey("third", aliases=("third",), tags=("tag",))
    core.keys.create(CALLER, InstanceId(p.instance), wanted, idempotency_key="request-1")


def do_rotate(core: Core, p: Prepared) -> None:
    core.keys.rotate(CALLER, KeyId(p.key), marker="now")


def do_adopt(core: Core, p: Prepared) -> None:
    core.keys.adopt(CALLER, KeyId(p.key), OWNER, within=InstanceId(p.instance))


def do_delete(core: Core, p: Prepared) -> None:
    core.keys.delete(CALLER, KeyId(p.key))


def do_provider_set(core: Core, p: Prepared) -> None:
    core.providers.bind(CALLER, "keyplane", KeyId(p.other_key))


def do_rotate_and_load(core: Core, p: Prepared) -> None:
    do_rotate(core, p)
    core.kms.refresh()


# --- the promises ---------------------------------------------------------------


def check_created(core: Core, p: Prepared, *, acknowledged: bool) -> None:
    keys = [k for k in core.keys.page(CALLER, KeyFilter()).keys if k.name == "third"]
    assert len(keys) <= 1, "one create made two keys"
    assert keys or not acknowledged, "an acknowledged key is lost"
    for key in keys:
        opens_what_it_wraps(core, p, key.id)
    do_create(core, p)
    owned = [k for k in core.keys.page(CALLER, KeyFilter()).keys if k.owner == OWNER]
    assert len(owned) == 1, "repeating the create made a second key"


def check_created_repeatably(core: Core, p: Prepared, *, acknowledged: bool) -> None:
    before = [k for k in core.keys.page(CALLER, KeyFilter()).keys if k.name == "third"]
    assert len(before) <= 1, "one create made two keys"
    assert before or not acknowledged, "an acknowledged key is lost"
    do_create_repeatably(core, p)
    after = [k for k in core.keys.page(CALLER, KeyFilter()).keys if k.name == "third"]
    assert len(after) == 1, "repeating the create made a second key"
    assert before in ([], after), "repeating the create made another key"
    assert core.keys.resolve("third", within=InstanceId(p.instance)) == after[0].id
    opens_what_it_wraps(core, p, after[0].id)


def check_rotated(core: Core, p: Prepared, *, acknowledged: bool) -> None:
    key = core.keys.get(CALLER, KeyId(p.key))
    assert len(key.versions) in (1, 2)
    assert len(key.versions) == 2 or not acknowledged, "an acknowledged rotation is lost"
    active = [v for v in key.versions if v.state is VersionState.ACTIVE]
    assert active == [key.versions[-1]], "half a rotation is visible"
    assert (key.rotation_marker == "now") == (len(key.versions) == 2)
    opens_what_it_wraps(core, p, p.key)
    opens_the_old(core, p)
    do_rotate(core, p)
    assert len(core.keys.get(CALLER, KeyId(p.key)).versions) == 2, "it rotated twice"


def check_provider(core: Core, p: Prepared, *, acknowledged: bool) -> None:
    core.kms.refresh()
    provider = core.providers.overview("keyplane").provider
    ids = [activation.id for activation in provider.activations]
    assert len(ids) == len(set(ids)) <= 2
    assert len(ids) == 2 or not acknowledged, "an acknowledged change is lost"
    assert provider.pending is None, "the change does not finish after a restart"
    assert provider.active == provider.activations[-1]
    status = core.kms.status()
    assert (status.healthz, status.key_id) == ("ok", ids[-1]), status
    old, old_id = p.kms
    assert core.kms.decrypt(CALLER, bytes(old), old_id) == b"seed"
    ciphertext, key_id = core.kms.encrypt(CALLER, b"new")
    assert core.kms.decrypt(CALLER, ciphertext, key_id) == b"new"
    key = core.keys.get(CALLER, provider.key_id)
    assert key.current.id == provider.active.version_id, "key and ledger disagree"


def check_adopted(core: Core, p: Prepared, *, acknowledged: bool) -> None:
    key = core.keys.get(CALLER, KeyId(p.key))
    assert key.owner in (None, OWNER)
    assert key.owner == OWNER or not acknowledged, "an acknowledged adoption is lost"
    opens_what_it_wraps(core, p, p.key)
    opens_the_old(core, p)


def check_deleted(core: Core, p: Prepared, *, acknowledged: bool) -> None:
    key = core.keys.get(CALLER, KeyId(p.key))
    if key.state is not KeyState.DESTROYED:
        assert not acknowledged, "a deleted key came back"
        opens_the_old(core, p)
        return
    try:
        opens_the_old(core, p)
    except KeyDeletedError:
        pass
    else:
        raise AssertionError("a deleted key still opens")
    no_file_holds(core.settings.state_dir, p.blobs)


def opens_what_it_wraps(core: Core, p: Prepared, key_id: str) -> None:
    instance, key = InstanceId(p.instance), KeyId(key_id)
    wrapped = core.wrapping.wrap(CALLER, instance, key, b"fresh")
    opened = core.wrapping.unwrap(CALLER, instance, key, wrapped.ciphertext)
    assert opened.plaintext == b"fresh"


def opens_the_old(core: Core, p: Prepared) -> None:
    opened = core.wrapping.unwrap(CALLER, InstanceId(p.instance), KeyId(p.key), bytes(p.wrapped))
    assert opened.plaintext == b"text"


def no_file_holds(directory: Path, blobs: list[str]) -> None:
    for path in directory.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for blob in blobs:
            assert bytes.fromhex(blob) not in content, f"deleted material lies in {path.name}"


@dataclass(frozen=True)
class Scenario:
    prepare: Callable[[Path], Prepared]
    run: Callable[[Core, Prepared], None]
    check: Callable[..., None]


SCENARIOS = {
    "create": Scenario(prepare_key, do_create, check_created),
    "create-repeatably": Scenario(prepare_key, do_create_repeatably, check_created_repeatably),
    "import": Scenario(prepare_key, do_import, check_created),
    "rotate": Scenario(prepare_key, do_rotate, check_rotated),
    "adopt": Scenario(prepare_key, do_adopt, check_adopted),
    "delete": Scenario(prepare_key, do_delete, check_deleted),
    "provider-set": Scenario(prepare_bound, do_provider_set, check_provider),
    "rotate-bound": Scenario(prepare_bound, do_rotate_and_load, check_provider),
}


# --- processes --------------------------------------------------------------------


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked process and return its wait status."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001  (everything is reported by the parent)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitpid(child, 0)[1]


def walk(run: Callable[[Path, Killer], None], check: Callable[[Path], None], base: Path) -> dict:
    """Kill ``run`` at every step in turn, and ``check`` what is left each time."""
    original, copy = base / "original", base / "state"
    broken: list[int] = []
    for step in range(1, STEPS_MAX):
        shutil.rmtree(copy, ignore_errors=True)
        if original.exists():
            shutil.copytree(original, copy)
            relocate_token(original, copy)
        killer = Killer(copy, step)
        status = in_child(lambda killer=killer: (killer.install(), run(copy, killer)))
        finished = os.WIFEXITED(status)
        if finished and os.WEXITSTATUS(status):
            broken.append(step)
        if in_child(lambda: check(copy)):
            broken.append(step)
        if finished:
            return {"steps": step - 1, "broken": broken}
    return {"steps": STEPS_MAX, "broken": ["the use case did not come to an end"]}


def relocate_token(original: Path, copy: Path) -> None:
    """Make the copied SoftHSM2 configuration name the copied token directory."""
    configuration = copy / "softhsm2.conf"
    configuration.write_text(configuration.read_text().replace(str(original), str(copy)))


def walk_scenario(scenario: Scenario, base: Path) -> dict:
    prepared_file = base / "prepared.json"

    def prepare() -> None:
        prepared_file.write_text(json.dumps(vars(scenario.prepare(base / "original"))))

    def run(state_dir: Path, killer: Killer) -> None:
        (base / "acknowledged").unlink(missing_ok=True)
        with open_core(settings_of(state_dir), "cli") as core:
            core.kms.refresh()
            with killer.armed():
                scenario.run(core, prepared())
            (base / "acknowledged").touch()
            # A clean end would tidy up; the next start must not depend on it.
            os._exit(0)

    def check(state_dir: Path) -> None:
        with open_core(settings_of(state_dir), "cli") as core:
            acknowledged = (base / "acknowledged").exists()
            scenario.check(core, prepared(), acknowledged=acknowledged)

    def prepared() -> Prepared:
        return Prepared(**json.loads(prepared_file.read_text()))

    if in_child(prepare):
        raise SystemExit("the scenario could not be prepared")
    return walk(run, check, base)


def walk_init(base: Path) -> dict:
    def run(state_dir: Path, killer: Killer) -> None:
        with killer.armed():
            initialise(settings_of(state_dir), CALLER)

    def check(state_dir: Path) -> None:
        with contextlib.suppress(AlreadyInitialisedError):
            initialise(settings_of(state_dir), CALLER)

    def check_usable(state_dir: Path) -> None:
        with open_core(settings_of(state_dir), "cli") as core:
            instances = core.instances.all()
            assert [instance.name for instance in instances] == ["default"]
            key = core.keys.create(CALLER, instances[0].id, NewKey("first"))
            opens_what_it_wraps(core, Prepared(instances[0].id), key.id)

    def check_both(state_dir: Path) -> None:
        # Each in a process of its own: a module is initialised once in a process.
        assert in_child(lambda: check(state_dir)) == 0
        assert in_child(lambda: check_usable(state_dir)) == 0

    return walk(run, check_both, base)


def main() -> None:
    name, base = sys.argv[1], Path(sys.argv[2])
    result = walk_init(base) if name == "init" else walk_scenario(SCENARIOS[name], base)
    print(json.dumps(result))  # noqa: T201  (the answer to the test that started this)


if __name__ == "__main__":
    main()
