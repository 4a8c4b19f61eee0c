"""KServe's manifest, against the models that KServe and Kubernetes publish of their schemas."""

import importlib
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import typer
import yaml
from kubernetes import client

from cadc_rec.cli.main import app
from cadc_rec.serving.http.guard import OPEN_PATHS

LAUNCH = Path(__file__).parents[3] / "launch"
MANIFEST = yaml.safe_load((LAUNCH / "kubernetes" / "service.yaml").read_text())


def models_of_kserve():
    """KServe's models alone: its messages cannot be registered beside Triton's of other tests."""
    stand_in = ModuleType("kserve")
    stand_in.__path__ = find_spec("kserve").submodule_search_locations
    with mock.patch.dict(sys.modules, {"kserve": stand_in}):  # puts all back as it was
        return importlib.import_module("kserve.models")


kserve = models_of_kserve()


def as_published(value, kind="V1beta1InferenceService"):
    """A manifest as the published models read it, without what they do not know."""
    if kind.startswith(("list[", "dict(str, ")):
        inner = kind[5:-1] if kind.startswith("list[") else kind[10:-1]
        if isinstance(value, list):
            return [as_published(one, inner) for one in value]
        return {name: as_published(one, inner) for name, one in value.items()}
    if hasattr(kserve, kind):
        model = getattr(kserve, kind)
        kinds = {model.attribute_map[name]: of for name, of in model.openapi_types.items()}
        return {
            name: as_published(one, kinds[name]) for name, one in value.items() if name in kinds
        }
    if hasattr(client, kind):
        return client.ApiClient().sanitize_for_serialization(getattr(client, kind).from_dict(value))
    assert isinstance(value, {"str": str, "int": int, "bool": bool}[kind])
    return value


def container():
    (found,) = MANIFEST["spec"]["predictor"]["containers"]
    return found


def test_the_manifest_is_one_of_the_published_schema():
    assert as_published(MANIFEST) == MANIFEST


@pytest.mark.parametrize(
    ("where", "field"),
    [
        (lambda m: m["spec"]["predictor"], "replicas"),
        (lambda m: m["spec"]["predictor"]["containers"][0]["livenessProbe"]["httpGet"], "url"),
    ],
)
def test_a_field_that_the_schema_lacks_would_be_seen(where, field):
    manifest = yaml.safe_load((LAUNCH / "kubernetes" / "service.yaml").read_text())
    where(manifest)[field] = 2
    assert as_published(manifest) != manifest


def test_its_arguments_are_those_of_the_command():
    command, bundle, *options = container()["args"]
    assert bundle.startswith("s3://")
    taken = {
        name for one in typer.main.get_command(app).commands[command].params for name in one.opts
    }
    assert {option.partition("=")[0] for option in options} <= taken


def test_probes_ask_what_needs_no_key_at_the_port_of_http():
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container()[kind]["httpGet"]
        assert asked["path"] in OPEN_PATHS, kind
        assert asked["port"] == ports["http"], kind
    given = dict(one.removeprefix("--").split("=") for one in container()["args"][2:])
    assert (int(given["http-port"]), int(given["grpc-port"])) == (ports["http"], ports["grpc"])


def test_it_runs_as_the_images_user_and_writes_where_the_image_says():
    image = (LAUNCH / "Dockerfile.serve").read_text()
    (user,) = re.findall(r"^USER (\d+)$", image, re.MULTILINE)
    assert MANIFEST["spec"]["predictor"]["securityContext"]["runAsUser"] == int(user)
    (cache,) = re.findall(r"XDG_CACHE_HOME=(\S+)", image)
    assert cache in {mount["mountPath"] for mount in container()["volumeMounts"]}
    mounted = {mount["name"] for mount in container()["volumeMounts"]}
    assert mounted == {volume["name"] for volume in MANIFEST["spec"]["predictor"]["volumes"]}
