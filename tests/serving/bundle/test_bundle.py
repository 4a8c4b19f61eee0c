"""A bundle is opened when it is whole, and otherwise refused with one sentence."""

import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save

from cadc_rec.errors import CadcError
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle, manifest_of
from cadc_rec.serving.bundle.programs import refuse_pickles
from cadc_rec.serving.bundle.signing import signature_of, signing_key, verification_key

VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2)


def write_manifest(folder, key=None):
    """Make what lies in `folder` a bundle."""
    for name in (layout.MANIFEST, layout.SIGNATURE):
        (folder / name).unlink(missing_ok=True)
    manifest = manifest_of(folder, "toy", {"train": "abc"}, {"python": "3"}, "2020-01-01T00:00:00Z")
    text = json.dumps(manifest)
    (folder / layout.MANIFEST).write_text(text)
    if key is not None:
        (folder / layout.SIGNATURE).write_text(signature_of(text.encode(), key))
    return manifest


@pytest.fixture
def toy(tmp_path):
    """A bundle of two files."""
    folder = tmp_path / "bundle"
    (folder / "vectors").mkdir(parents=True)
    (folder / layout.MODEL).write_text('{"items": 3}')
    (folder / layout.ITEM_VECTORS).write_bytes(save({"vectors": VECTORS}))
    write_manifest(folder)
    return folder


def edited(folder, edit):
    """Change the manifest as an attacker without a key can: its digest is made to fit."""
    file = folder / layout.MANIFEST
    manifest = json.loads(file.read_text())
    manifest.pop("digest")
    edit(manifest)
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    manifest["digest"] = hashlib.sha256(text.encode()).hexdigest()
    file.write_text(json.dumps(manifest))


def test_a_whole_bundle_gives_what_was_written(toy):
    bundle = Bundle.open(toy)
    assert bundle.model() == {"items": 3}
    assert np.array_equal(bundle.arrays(layout.ITEM_VECTORS)["vectors"], VECTORS)
    assert bundle.name == "toy"
    assert not bundle.has(layout.USER_VECTORS)


def test_the_manifest_holds_the_sha256_of_every_file(toy):
    entry = Bundle.open(toy).manifest["files"][layout.MODEL]
    assert entry == {"bytes": 12, "sha256": hashlib.sha256(b'{"items": 3}').hexdigest()}


def test_equal_contents_have_equal_fingerprints(toy, tmp_path):
    shutil.copytree(toy, tmp_path / "copy")
    write_manifest(tmp_path / "copy")
    assert Bundle.open(tmp_path / "copy").fingerprint == Bundle.open(toy).fingerprint


def refused(folder, words, key=None):
    with pytest.raises(CadcError) as refusal:
        Bundle.open(folder, key)
    text = str(refusal.value)
    assert words in text
    assert text.endswith(".")
    assert "\n" not in text


def flip(file):
    contents = bytearray(file.read_bytes())
    contents[-1] ^= 1
    file.write_bytes(contents)


DAMAGES = {
    "an altered byte": (lambda f: flip(f / layout.ITEM_VECTORS), "changed since it was exported"),
    "a truncated file": (
        lambda f: os.truncate(f / layout.ITEM_VECTORS, 20),
        "changed since it was exported",
    ),
    "a missing file": (lambda f: (f / layout.MODEL).unlink(), "is missing from the bundle"),
    "a missing manifest": (lambda f: (f / layout.MANIFEST).unlink(), "is not a bundle"),
    "a truncated manifest": (
        lambda f: os.truncate(f / layout.MANIFEST, 100),
        "is not the manifest of a bundle",
    ),
    "an empty manifest": (
        lambda f: (f / layout.MANIFEST).write_text("{}"),
        "is not the manifest of a bundle",
    ),
    "a manifest of nested lists": (
        lambda f: (f / layout.MANIFEST).write_text("[" * 100_000),
        "is not the manifest of a bundle",
    ),
    "a huge manifest": (
        lambda f: (f / layout.MANIFEST).write_text(" " * (1 << 20) + "{}"),
        "too large for a manifest",
    ),
    "a stray file": (lambda f: (f / "notes.json").write_text("{}"), "does not belong"),
    "a hidden file": (lambda f: (f / ".hidden").write_text(""), "does not belong"),
    "a link in place of a file": (
        lambda f: (
            (f / layout.MODEL).rename(f.parent / "elsewhere.json"),
            (f / layout.MODEL).symlink_to(f.parent / "elsewhere.json"),
        ),
        "no links",
    ),
    "a pipe": (lambda f: os.mkfifo(f / "pipe.json"), "plain files only"),
    "a linked manifest": (
        lambda f: (
            (f / layout.MANIFEST).rename(f.parent / "m.json"),
            (f / layout.MANIFEST).symlink_to(f.parent / "m.json"),
        ),
        "not a plain file",
    ),
    "a newer version": (
        lambda f: edited(f, lambda m: m.update(format_version=layout.FORMAT_VERSION + 1)),
        f"a bundle of format {layout.FORMAT_VERSION + 1}; this cadc-rec reads up to "
        f"{layout.FORMAT_VERSION}",
    ),
    "an edited manifest": (
        lambda f: (f / layout.MANIFEST).write_text(
            (f / layout.MANIFEST).read_text().replace('"toy"', '"top"')
        ),
        "changed since it was exported",
    ),
    "files that are a list": (
        lambda f: edited(f, lambda m: m.update(files=[])),
        "changed since it was exported",
    ),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_bundle_is_refused(toy, damage, words):
    damage(toy)
    refused(toy, words)


LEADING_AWAY = ["../outside.json", "/etc/passwd", "a/../b.json", "a/b/c.json", "./model.json", ".."]
UNLIKE_OURS = [
    "",
    "x",
    "x.pkl",
    "A.json",
    ".x.json",
    "x .json",
    "x.json\n",
    "a\\x.json",
    "café.json",
]


@pytest.mark.parametrize("name", [*LEADING_AWAY, *UNLIKE_OURS])
def test_names_that_could_lead_elsewhere_are_refused(toy, name):
    entry = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    edited(toy, lambda manifest: manifest["files"].update({name: entry}))
    refused(toy, "which is not a name of a bundle's file")


class Opened:
    """A pickle that would leave a trace if anybody opened it."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


@pytest.mark.parametrize("name", ["model.pkl", "data.pt", "vectors/items.pickle"])
def test_a_pickle_placed_in_a_bundle_is_never_opened(toy, tmp_path, name):
    trace = tmp_path / "opened"
    (toy / name).write_bytes(pickle.dumps(Opened(trace)))
    refused(toy, "does not belong to the bundle and is not opened")
    assert not trace.exists()


def test_a_file_that_changes_after_opening_is_not_used(toy):
    bundle = Bundle.open(toy)
    flip(toy / layout.ITEM_VECTORS)
    with pytest.raises(CadcError, match="changed since the bundle was opened"):
        bundle.read(layout.ITEM_VECTORS)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A private and a public key, made by OpenSSL, and those of somebody else."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        private, public = folder / f"{name}.key", folder / f"{name}.pub"
        make = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", private]
        subprocess.run(make, check=True, capture_output=True)
        take = ["openssl", "pkey", "-in", private, "-pubout", "-out", public]
        subprocess.run(take, check=True, capture_output=True)
    return folder


def test_a_signed_bundle_opens_with_its_signers_key_alone(toy, keys):
    write_manifest(toy, signing_key(keys / "ours.key"))
    assert Bundle.open(toy, verification_key(keys / "ours.pub")).name == "toy"
    refused(toy, "the signature is not the key owner's", verification_key(keys / "theirs.pub"))


def test_an_unsigned_bundle_is_refused_where_a_key_is_given(toy, keys):
    refused(toy, "a signature is asked for", verification_key(keys / "ours.pub"))


def test_a_signature_does_not_outlive_an_edit(toy, keys):
    write_manifest(toy, signing_key(keys / "ours.key"))
    edited(toy, lambda manifest: manifest.update(name="other"))
    assert Bundle.open(toy).name == "other"  # nobody asked whose it is
    refused(toy, "the signature is not the key owner's", verification_key(keys / "ours.pub"))


@pytest.mark.parametrize("contents", ["", "{}", '{"algorithm": "none"}', "\x00", "[]"])
def test_what_is_no_signature_is_refused(toy, keys, contents):
    (toy / layout.SIGNATURE).write_text(contents)
    refused(toy, "the signature is not the key owner's", verification_key(keys / "ours.pub"))


def test_keys_are_taken_from_the_environment_too(toy, keys, monkeypatch):
    monkeypatch.setenv("CADC_REC_SIGN_KEY", (keys / "ours.key").read_text())
    monkeypatch.setenv("CADC_REC_VERIFY_KEY", (keys / "ours.pub").read_text())
    write_manifest(toy, signing_key())
    assert Bundle.open(toy, verification_key()).name == "toy"


def test_what_is_no_key_is_said_to_be_none(keys, tmp_path):
    (tmp_path / "x.pem").write_text("hello")
    for read in (signing_key, verification_key):
        with pytest.raises(CadcError, match="no Ed25519"):
            read(tmp_path / "x.pem")
        with pytest.raises(CadcError, match="cannot be read"):
            read(tmp_path / "absent.pem")
    with pytest.raises(CadcError, match="no Ed25519 public key"):
        verification_key(keys / "ours.key")


def archive(**entries):
    """A zip with these entries below one top folder."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as opened:
        for name, contents in entries.items():
            opened.writestr("archive/" + name, contents)
    return made.getvalue()


CONFIG = '{"config": {"w": {"path_name": "weight_0", "use_pickle": %s}}}'


def test_an_export_archive_without_pickles_may_be_loaded():
    refuse_pickles(
        archive(
            **{
                "models/model.json": "{}",
                "data/weights/weight_0": b"1234",
                "data/weights/model_weights_config.json": CONFIG % "false",
                "data/sample_inputs/model.pt": b"",
            }
        ),
        "x.pt2",
    )


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"data/sample_inputs/model.pt": b"\x80\x04."}, "may be a pickle"),
        ({"data/weights/model.pt": b""}, "may be a pickle"),
        ({"data/constants/opaque_obj_0": b""}, "may be a pickle"),
        ({"data/constants/custom_obj_0": b""}, "may be a pickle"),
        ({"data/aotinductor/model/x.so": b""}, "may be a pickle"),
        ({"data/weights/model_weights_config.json": CONFIG % "true"}, "asks for a pickle"),
        ({"data/weights/model_weights_config.json": "[]"}, "not an archive of torch.export"),
    ],
)
def test_an_export_archive_with_a_pickle_is_refused(entries, words):
    with pytest.raises(CadcError, match=words):
        refuse_pickles(archive(**entries), "x.pt2")


def test_what_is_no_archive_is_refused():
    with pytest.raises(CadcError, match="not an archive"):
        refuse_pickles(b"PK\x03\x04 and no more", "x.pt2")


def test_other_versions_of_libraries_are_named_but_not_other_builds_of_the_same(toy, monkeypatch):
    here = {"python": "3.11.2", "torch": "2.13.0+cpu", "numpy": "2.4.6", "duckdb": "2.0.1"}
    monkeypatch.setattr("cadc_rec.serving.bundle.bundle.library_versions", lambda: here)

    def made_with(**versions):
        edited(toy, lambda manifest: manifest.update(versions=versions))
        return Bundle.open(toy).other_versions()

    assert made_with(python="3.11.9", torch="2.13.0", numpy="2.4.6", duckdb="2.0.0") == []
    assert made_with(python="3.12.1", torch="2.12.1", faiss="1.9.0") == [
        "python 3.12.1 (here 3.11.2)",
        "torch 2.12.1 (here 2.13.0+cpu)",
        "faiss 1.9.0 (here not installed)",
    ]


def test_a_manifest_whose_versions_are_no_table_is_refused(toy):
    edited(toy, lambda manifest: manifest.update(versions=["3.11"]))
    with pytest.raises(CadcError, match="changed since it was exported"):
        Bundle.open(toy)
