"""Each batch is learned once, whatever happens between two steps; a bad one not at all."""

import contextlib
import json
import logging
import shutil
import threading

import pytest

from cadc_rec.errors import BusyError, CadcError
from cadc_rec.follow import folder as folder_module
from cadc_rec.follow import follow as follow_module
from cadc_rec.follow import journal as journal_module
from cadc_rec.follow.folder import FolderStream
from cadc_rec.follow.follow import Until, follow
from cadc_rec.follow.journal import Journal
from cadc_rec.follow.stream import Stop

EXPECTED = [["0,0", "1,0"], ["2,0", "3,0"], ["4,0"]]


class Killed(BaseException):
    """As a kill does, it passes every handler of errors."""


class Faults:
    """Dies before or after the n-th step that leaves something on the disk."""

    def __init__(self, monkeypatch, world):
        self.left = None
        steps = [
            (follow_module, "commit"),
            (journal_module, "write_atomically"),
            (folder_module.shutil, "copyfile"),
            (shutil, "rmtree"),
            (world.ledger, "update"),
        ]
        for owner, name in steps:
            monkeypatch.setattr(owner, name, self._faulty(getattr(owner, name)))

    def _faulty(self, step):
        def run(*args, **kwargs):
            self._count()
            made = step(*args, **kwargs)
            self._count()
            return made

        return run

    def _count(self):
        if self.left is None:
            return
        self.left -= 1
        if self.left < 0:
            self.left = None
            raise Killed


def filled(world):
    for number in range(5):
        world.put(f"{number}.csv", [f"{number},0"])


def test_under_a_launcher_it_is_refused_before_it_leaves_anything(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CadcError, match="follow runs in one process; start cadc-rec follow with"):
        next(follow(None, tmp_path, None, None, Until()))
    assert not list(tmp_path.iterdir())


def test_killed_between_any_two_steps_it_ends_as_undisturbed(make_world, monkeypatch):
    points = 0
    while True:
        world = make_world(points)
        with monkeypatch.context() as patched:
            faults = Faults(patched, world)
            faults.left = points
            filled(world)
            try:
                world.run(rows=2)
                died = False
            except Killed:
                died = True
            world.run(rows=2)
        assert world.ledger.rows == EXPECTED, points
        states = [batch.state for batch in Journal(world.state / "batches").batches]
        assert states == ["made"] * 3
        assert world.spooled() == []
        if not died:
            break
        points += 1
    assert points > 40  # three batches of a dozen steps, each before and after


@pytest.mark.slow
def test_killed_twice_at_every_pair_of_points_it_ends_as_undisturbed(make_world, monkeypatch):
    for first in range(2, 44, 7):
        for second in range(0, 12, 3):
            world = make_world(f"{first}-{second}")
            with monkeypatch.context() as patched:
                faults = Faults(patched, world)
                filled(world)
                for point in (first, second):
                    faults.left = point
                    with contextlib.suppress(Killed):
                        world.run(rows=2)
                faults.left = None
                world.run(rows=2)
            assert world.ledger.rows == EXPECTED, (first, second)


@pytest.fixture
def make_world(tmp_path):
    from tests.updates.follow.conftest import World

    return lambda name: World(tmp_path / str(name))


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone"])
def test_a_damaged_spool_is_filled_anew(world, monkeypatch, harm):
    filled(world)
    learn = world.ledger.update

    def dies(folder):
        raise Killed

    world.ledger.update = dies
    with pytest.raises(Killed):
        world.run(rows=2)
    world.ledger.update = learn
    (spooled,) = (world.state / "spool").iterdir()
    file = spooled / "interactions" / "0001-0.csv"
    if harm == "gone":
        shutil.rmtree(spooled)
    else:
        content = file.read_bytes()
        file.write_bytes(content[:5] if harm == "cut" else content.replace(b"0,0", b"7,0"))
    world.run(rows=2)
    assert world.ledger.rows == EXPECTED


def test_a_damaged_journal_is_refused_by_name_and_what_was_learned_is_known(world):
    filled(world)
    world.run(rows=2)
    file = world.state / "batches" / "000002.json"
    text = file.read_text()
    file.write_text(text.replace('"rows": 2', '"rows": 3'))
    with pytest.raises(CadcError, match=r"000002\.json: changed since it was written; delete 0000"):
        world.run(rows=2)
    file.unlink()
    with pytest.raises(CadcError, match=r"000002\.json: is missing, and later ones are there"):
        world.run(rows=2)
    (world.state / "batches" / "000003.json").unlink()
    told = world.run(rows=2)
    assert [one.update.number for one in told] == [2, 3]  # recognised, not made
    assert world.ledger.rows == EXPECTED


def test_a_bad_file_stops_the_stream_and_nothing_of_its_batch_is_learned(world):
    filled(world)
    bad = world.put("3.csv", ["3,0", "bad"])
    with pytest.raises(CadcError) as refused:
        world.run(rows=2)
    assert str(refused.value) == (
        f"batch 2 (2.csv to 3.csv): {bad}, line 3: is bad. Nothing of it was learned; mend the "
        "file and run again, or leave it out with --skip NAME."
    )
    assert world.ledger.rows == EXPECTED[:1]
    assert world.spooled() == []
    world.put("3.csv", ["3,0"])  # mended
    world.run(rows=2)
    assert world.ledger.rows == EXPECTED


def test_a_bad_file_is_left_out_where_that_is_asked_for_and_stays_out(world):
    filled(world)
    world.put("3.csv", ["bad"])
    with pytest.raises(CadcError, match=r"--skip 3\.csv\.$"):
        world.run()
    world.run(skip=["3.csv"])
    assert world.ledger.rows == [["0,0"], ["1,0"], ["2,0"], ["4,0"]]
    assert world.run() == []


def test_a_batch_without_a_new_row_is_not_looked_at_again(world):
    world.put("a.csv", ["1,1", "2,2"])
    world.run()
    world.put("b.csv", ["2,2"])
    (told,) = world.run()
    assert (told.update, told.batch.state) == (None, "nothing new")
    assert world.run() == []


def test_an_update_that_is_gone_is_told_of_before_anything_is_learned(world):
    filled(world)
    world.run(rows=2)
    (world.ledger.folder / "003.json").unlink()
    world.put("5.csv", ["5,0"])
    with pytest.raises(CadcError, match="became update 3, and there are only 2; bring its folder"):
        world.run()
    assert len(world.ledger.rows) == 2


def test_it_waits_for_an_update_by_hand(world, monkeypatch):
    monkeypatch.setattr(follow_module, "_BUSY_SECONDS", 0.01)
    world.put("a.csv", ["1,1"])
    learn, times = world.ledger.update, []

    def busy(folder):
        times.append(folder)
        if len(times) < 3:
            raise BusyError("another update is at work.")
        return learn(folder)

    world.ledger.update = busy
    world.run()
    assert world.ledger.rows == [["1,1"]]
    assert len(times) == 3


def test_it_ends_after_the_batch_at_hand(world):
    filled(world)
    stop = Stop()
    told = world.follower(rows=2, until=Until(once=True, stop=stop)).run()
    next(told)
    stop.set()
    assert list(told) == []
    assert world.ledger.rows == EXPECTED[:1]
    world.run(rows=2)
    assert world.ledger.rows == EXPECTED


def test_a_stream_that_stops_ends_with_what_it_has(world, caplog):
    world.put("a.csv", ["1,1"])
    with caplog.at_level(logging.INFO, "cadc_rec"):
        (told,) = world.follower(rows=100, until=Until(idle_minutes=0.0005)).run()
    assert told.batch.rows == 1
    assert "nothing came for 0.0005 minutes" in caplog.text


def test_files_that_arrive_while_it_waits_are_taken(world, monkeypatch):
    monkeypatch.setattr(follow_module, "_LOOK_SECONDS", 0.01)
    world.put("a.csv", ["1,1"])
    stop = Stop()
    told = world.follower(until=Until(stop=stop)).run()
    assert next(told).text == "a.csv"
    later = threading.Timer(0.1, lambda: world.put("b.csv", ["2,2"]))
    later.start()
    assert next(told).text == "b.csv"
    stop.set()
    assert list(told) == []


def test_the_journal_says_what_each_batch_holds(world):
    filled(world)
    world.run(rows=2)
    written = json.loads((world.state / "batches" / "000002.json").read_text())
    assert [one["name"] for one in written["taken"]] == ["2.csv", "3.csv"]
    assert (written["state"], written["update"], written["rows"]) == ("made", 2, 2)
    stream = FolderStream(world.inbox)
    stream.begin(Journal(world.state / "batches").batches)
    assert stream._arrived(passed=set()) == []
