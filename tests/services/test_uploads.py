"""P8: an adapter dropped onto the page is taken in when it is sound, and nothing else of it remains."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from playground.config import ROOT, AppConfig, load_config
from playground.errors import AdapterInvalid, InvalidRequest
from playground.local_inference import LocalInference
from playground.local_inference.adapters import content_hash
from playground.services.models import Models
from playground.services.uploads import Uploads
from tests.local_inference import adapter_maker

PIRATE = ROOT / "assets" / "adapters" / "pirate"
FILES = ("adapter_config.json", "adapter_model.safetensors", "README.md")
Member = tuple[str, bytes]


@pytest.fixture
def config(tmp_path: Path) -> AppConfig:
    return AppConfig(data_dir=tmp_path / "data")


@pytest.fixture
def uploads(config: AppConfig) -> Uploads:
    return Uploads(config)


def packed(archive: Path, *members: Member, folder: str = "", method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip of the pirate's files in ``folder``, or of ``members``."""
    contents = members or [(f"{folder}{name}", (PIRATE / name).read_bytes()) for name in FILES]
    with zipfile.ZipFile(archive, "w", method) as file:
        for name, data in contents:
            file.writestr(name, data)
    return archive


def everything(config: AppConfig) -> list[str]:
    """All that lies in the folder of uploads."""
    return sorted(str(path.relative_to(config.uploads)) for path in config.uploads.rglob("*"))


def test_the_files_of_a_folder_become_an_adapter(uploads: Uploads, config: AppConfig) -> None:
    """P8: a trainer's folder as it is; its logs and scores are left out."""
    info = uploads.receive([file for file in PIRATE.iterdir() if file.is_file()], "My pirate!")
    assert (info.name, info.problems, info.path) == ("My-pirate", (), str(config.uploads / "My-pirate"))
    assert content_hash(Path(info.path)) == content_hash(PIRATE)
    assert everything(config) == ["My-pirate", *(f"My-pirate/{name}" for name in sorted(FILES))]


def test_an_uploaded_adapter_is_offered_for_every_base(uploads: Uploads, config: AppConfig) -> None:
    """P8: at once, by its name; and no more once it is removed."""
    models = Models(LocalInference(), replace(load_config(), data_dir=config.data_dir))
    before = models.adapters("gpt2")
    uploads.receive([PIRATE / name for name in FILES], "mine")
    assert [info.name for info in models.adapters("gpt2")] == [*(info.name for info in before), "mine"]
    assert models.spec("starter", "mine").adapters == ((str(config.uploads / "mine"), 1.0),)
    uploads.remove("mine")
    assert models.adapters("gpt2") == before


@pytest.mark.parametrize("folder", ["", "run/", "a/b/run/", "run\\"])
def test_a_zip_is_unpacked_however_deep_its_folder_is(folder: str, uploads: Uploads, tmp_path: Path) -> None:
    """P8: with the name that it has, and what a Mac adds ignored."""
    archive = packed(tmp_path / "packed.zip", folder=folder)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(f"__MACOSX/{folder}._adapter_config.json", b"\0\5\26\7")
    info = uploads.receive([archive])
    assert info.name == ("run" if folder else "packed")
    assert content_hash(Path(info.path)) == content_hash(PIRATE)


def test_checkpoints_inside_an_adapter_are_left_out(uploads: Uploads, config: AppConfig, tmp_path: Path) -> None:
    """P8: what trainers leave beside the result is no second adapter."""
    inner = [(f"run/checkpoint-5/{name}", (PIRATE / name).read_bytes()) for name in FILES]
    outer = [(f"run/{name}", (PIRATE / name).read_bytes()) for name in FILES]
    uploads.receive([packed(tmp_path / "packed.zip", *inner, *outer)])
    assert everything(config) == ["run", *(f"run/{name}" for name in sorted(FILES))]
    folder = [file for file in PIRATE.rglob("*") if file.is_file()]
    assert uploads.receive(folder).name == "run"


def test_the_same_content_is_one_entry_and_another_never_overwrites_it(
    uploads: Uploads, config: AppConfig, tmp_path: Path
) -> None:
    """P8: dropped twice by mistake; and two trainings of one name."""
    first = uploads.receive([packed(tmp_path / "mine.zip")])
    assert uploads.receive([PIRATE / name for name in FILES], "other name").path == first.path
    other = adapter_maker.make(tmp_path / "other")
    second = uploads.receive(list(other.iterdir()), "mine")
    assert (first.name, second.name) == ("mine", "mine-2")
    assert content_hash(Path(first.path)) == content_hash(PIRATE)
    assert sorted(path.name for path in config.uploads.iterdir()) == ["mine", "mine-2"]


def linked(archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as file:
        link = zipfile.ZipInfo("adapter_model.safetensors")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
        file.writestr("adapter_config.json", (PIRATE / "adapter_config.json").read_bytes())


def bomb(archive: Path) -> None:
    packed(
        archive,
        ("adapter_config.json", (PIRATE / "adapter_config.json").read_bytes()),
        ("adapter_model.safetensors", bytes(30_000_000)),
    )


def lying(archive: Path) -> None:
    """A member that claims to be a few bytes long; what comes out is much more."""
    bomb(archive)
    data = archive.read_bytes()
    archive.write_bytes(data.replace((30_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little")))


def damaged(archive: Path) -> None:
    packed(archive, method=zipfile.ZIP_STORED)
    data = archive.read_bytes()
    archive.write_bytes(data.replace(b"lora_A", b"lora_X", 1))


def encrypted(archive: Path) -> None:
    packed(archive)
    data = bytearray(archive.read_bytes())
    at = data.find(b"PK\1\2")
    while at >= 0:
        data[at + 8] |= 1
        at = data.find(b"PK\1\2", at + 4)
    archive.write_bytes(data)


def of(*members: Member) -> Callable[[Path], object]:
    return lambda archive: packed(archive, *members)


CONFIG = ("adapter_config.json", (PIRATE / "adapter_config.json").read_bytes())
WEIGHTS = ("adapter_model.safetensors", (PIRATE / "adapter_model.safetensors").read_bytes())
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no zip": (lambda archive: archive.write_bytes(b"no zip"), "is not a zip archive"),
    "empty": (lambda archive: packed(archive, ("folder/", b"")), "There is nothing in it"),
    "path out": (of(CONFIG, WEIGHTS, ("../../evil", b"x")), "a path out of its own folder"),
    "absolute": (of(CONFIG, WEIGHTS, ("/etc/evil", b"x")), "a path out of its own folder"),
    "windows path": (of(CONFIG, WEIGHTS, ("C:\\evil", b"x")), "a path out of its own folder"),
    "windows dots": (of(CONFIG, WEIGHTS, ("a\\..\\..\\evil", b"x")), "a path out of its own folder"),
    "link": (linked, "a link or device"),
    "bomb": (bomb, "more than 100 times its size"),
    "lie": (lying, "could not be read|more than 100 times"),
    "damaged": (damaged, "could not be read: Bad CRC-32"),
    "encrypted": (encrypted, "is encrypted"),
    "many": (of(CONFIG, WEIGHTS, *[(f"{at}.txt", b"") for at in range(2000)]), "2002 files; at most 2000"),
    "twice": (of(CONFIG, WEIGHTS, ("a\\b", b""), ("a/b", b"")), "two files of one name"),
    "two": (of(*[(f"{run}/{name}", data) for run in "ab" for name, data in (CONFIG, WEIGHTS)]), "2 adapters in it"),
    "pickle": (of(CONFIG, ("adapter_model.bin", b"evil")), "adapter_model.bin, a pickle file, which can run code"),
    "trainer's": (of(CONFIG, ("optimizer.pt", b"evil")), "only the trainer's own files"),
    "no weights": (of(CONFIG), "has no adapter_model.safetensors"),
    "no config": (of(WEIGHTS), "has no adapter_config.json"),
    "whole model": (of(("config.json", b"{}"), ("model.safetensors", b"")), "is a whole model"),
    "cut off": (of(CONFIG, (WEIGHTS[0], WEIGHTS[1][:-4])), "is cut off or damaged"),
    "pointer": (of(CONFIG, (WEIGHTS[0], adapter_maker.POINTER)), "Git LFS pointer"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_archive_leaves_nothing_behind(what: str, uploads: Uploads, config: AppConfig, tmp_path: Path) -> None:
    """P8, S1: each with its sentence, and no file of it outside or inside the folder of uploads."""
    make, says = BAD[what]
    archive = tmp_path / "bad.zip"
    make(archive)
    with pytest.raises(AdapterInvalid, match=says):
        uploads.receive([archive])
    assert not config.uploads.exists() or everything(config) == []
    assert {path.name for path in tmp_path.iterdir()} <= {"bad.zip", "data"}


def test_numbers_that_are_none_are_refused(uploads: Uploads, config: AppConfig, tmp_path: Path) -> None:
    """P8, G9: what only the weights themselves tell."""
    tensors = adapter_maker.pairs()
    name = next(iter(tensors))
    tensors[name] = (*tensors[name][:2], b"\0\0\xc0\x7f" * (len(tensors[name][2]) // 4))
    broken = adapter_maker.make(tmp_path / "nan", tensors)
    with pytest.raises(AdapterInvalid, match="NaN or infinite"):
        uploads.receive(list(broken.iterdir()))
    assert everything(config) == []


def test_the_limit_counts_what_comes_out(config: AppConfig, tmp_path: Path) -> None:
    """P8: not what the archive says, and for loose files too; what is not kept does not count."""
    size = sum((PIRATE / name).stat().st_size for name in FILES)
    with pytest.raises(AdapterInvalid, match=r"larger than 0\.3 MB.*upload_limit"):
        Uploads(replace(config, upload_limit=300_000)).receive([packed(tmp_path / "a.zip")])
    with pytest.raises(AdapterInvalid, match="larger than"):
        Uploads(replace(config, upload_limit=size - 1)).receive([PIRATE / name for name in FILES])
    assert everything(config) == []
    assert Uploads(replace(config, upload_limit=size)).receive([file for file in PIRATE.iterdir() if file.is_file()])


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("../../etc", "etc"),
        ("..", "adapter"),
        ("a/b\\c", "a-b-c"),
        (".hidden", "hidden"),
        ("ü 1", "ü-1"),
        ("x" * 99, "x" * 60),
    ],
)
def test_a_name_is_never_a_path(given: str, name: str, uploads: Uploads, config: AppConfig) -> None:
    """S1: whatever a person types."""
    assert uploads.receive([PIRATE / name for name in FILES], given).path == str(config.uploads / name)


def test_links_and_folders_among_loose_files_are_refused(uploads: Uploads, tmp_path: Path) -> None:
    """S1: a link would copy what it leads to."""
    (tmp_path / "adapter_config.json").symlink_to("/etc/passwd")
    for bad in (tmp_path / "adapter_config.json", tmp_path, tmp_path / "gone"):
        with pytest.raises(AdapterInvalid, match="is not a file"):
            uploads.receive([bad])
    with pytest.raises(AdapterInvalid, match="Nothing was uploaded"):
        uploads.receive([])


def test_only_what_was_uploaded_can_be_removed(uploads: Uploads, config: AppConfig, tmp_path: Path) -> None:
    """P8, S1: by its name, never by a path."""
    kept = shutil.copytree(PIRATE, tmp_path / "data" / "kept")
    info = uploads.receive([PIRATE / name for name in FILES], "mine")
    for name in ("", ".", "../kept", str(kept), "other", "mine/", "./mine"):
        with pytest.raises(AdapterInvalid, match=r"is not an uploaded adapter.*Uploaded: mine"):
            uploads.remove(name)
    uploads.remove(info.name)
    assert everything(config) == []
    assert kept.is_dir()


def test_a_shared_server_takes_nothing_in(config: AppConfig) -> None:
    """P8, S2: uploads are for the person at this machine."""
    shared = Uploads(replace(config, free_paths=False))
    assert Uploads(config).allowed
    assert not shared.allowed
    for call in (lambda: shared.receive([PIRATE / name for name in FILES]), lambda: shared.remove("mine")):
        with pytest.raises(InvalidRequest, match="only where the server is reached from this machine alone"):
            call()
    assert not config.data_dir.exists()
