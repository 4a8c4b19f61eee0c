"""What torchrun and torchx show of a job that failed: the sentence, not a traceback of ours."""

import json

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from cadc_rec.cli.main import _report
from cadc_rec.errors import CadcError

REFUSED = CadcError("data.k_core = 99 leaves no interaction; lower it.")


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """What torchrun makes of a rank's error."""
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))

    def of(error):
        code = _report(error, debug=False)
        failure = ProcessFailure(local_rank=0, pid=1, exitcode=code, error_file=str(file))
        return ChildFailedError("cadc_rec", {0: failure}).format_msg()

    return of


def test_a_users_error_is_the_jobs_cause(shown):
    assert f"traceback : error: {REFUSED}\n" in shown(REFUSED)
    assert "Traceback" not in shown(REFUSED)


def test_of_a_defect_the_traceback_is(shown):
    with pytest.raises(ValueError, match="Expecting property name") as failed:
        json.loads("{")
    assert "JSONDecodeError: Expecting property name" in shown(failed.value)
    assert "json.loads(" in shown(failed.value)
