"""Copy, read and delete checkpoints by their address: a path or an `s3://` address. Remote ones are downloaded for use.
The manifest is written last and deleted first, so a checkpoint in a bucket is complete if it has a manifest."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from jobs import checkpoint as folders
from jobs import fault_injection
from jobs.checkpoint import MANIFEST, Manifest, has_state, state_files, without_pickles, without_state
from jobs.files import DISK_ERRORS, atomic, disk_errors
from sweeper.errors import EnvironmentFailure
from sweeper.secrets import redacted
from sweeper.storage.files import create_folder
from sweeper.storage.locks import file_lock

CACHE = "cache"  # subfolder of the root folder for copies of checkpoints from a bucket; may be deleted at any time
SCHEME = "s3"
CONNECT_SECONDS, REQUEST_SECONDS = 10, 60
MAX_ATTEMPTS = 6  # attempts of a request; the pause doubles after each
PARALLEL_REQUESTS = 8
CAUSE_CHARS = 300

Part = Callable[[Manifest], dict[str, Any]]  # returns the entries of a manifest whose files are copied


class StorageError(EnvironmentFailure):
    """Report that the storage does not answer or refuses a request. The trial is not at fault."""


class Damaged(RuntimeError):
    """Report in one line the missing or damaged file of a checkpoint."""


class StoragePlace(NamedTuple):
    """Hold a pyarrow file system and a path in it."""

    files: Any
    path: str

    def __truediv__(self, name: str) -> StoragePlace:
        return StoragePlace(self.files, f"{self.path}/{name}")


def is_remote(address: str) -> bool:
    """Return True unless the address is a path on this machine."""
    return "://" in address


def join_address(address: str, *names: str) -> str:
    """Append names to an address.

    >>> join_address("s3://bucket/folder", "qa_backbones", "0003")
    's3://bucket/folder/qa_backbones/0003'
    """
    return "/".join((address.rstrip("/"), *names)) if is_remote(address) else str(Path(address, *names))


def parent(address: str) -> str:
    """Return the address of the folder that holds a checkpoint."""
    return address.rpartition("/")[0] if is_remote(address) else str(Path(address).parent)


def name_of(address: str) -> str:
    """Return the checkpoint's name. Raises EnvironmentFailure if a remote address has no valid name.

    The name becomes a folder name here, and the address may come from a database that others can write.
    """
    if not is_remote(address):
        return Path(address).name
    name = address.rpartition("/")[2]
    if not (address.startswith(f"{SCHEME}://") and re.fullmatch(r"checkpoint-\d{6,}", name)):
        raise EnvironmentFailure(
            f"{redacted(address)}: not the address of a checkpoint; write s3://BUCKET/FOLDER/checkpoint-N"
        )
    return name


def deposit(checkpoint: Path, folder: str, part: Part = dict) -> str:
    """Copy a checkpoint into `folder`, replacing one of the same name, and return the copy's address.

    Raises StorageError for a bucket, OSError for a path.
    """
    target = join_address(folder, checkpoint.name)
    if not is_remote(target):
        create_folder(Path(folder))
        return str(folders.copy_part(checkpoint, Path(target), part))
    manifest = part(folders.load_json(checkpoint / MANIFEST))
    with reaching(target):
        place = _resolve_address(target)
        _remove(place)
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            list(pool.map(lambda name: _upload(checkpoint / name, place / name), manifest))
        fault_injection.point("depot.manifest")
        _write_manifest(manifest, place)
    return target


def fetch_checkpoint(address: str, target: Path, part: Part = dict) -> Path:
    """Download a remote checkpoint to `target` unless an undamaged copy is there.

    A lock lets several processes call this at the same time. Raises Damaged, StorageError, OSError.
    """
    create_folder(target.parent)
    with file_lock(target.parent / f".{target.name}.lock"), reaching(address):
        place = _resolve_address(address)
        wanted = part(_manifest(place))
        if not (_same(target, wanted) and not folders.damage(target)):
            _download(place, wanted, target)
    return target


def local(address: str, root: Path) -> Path:
    """Return a local folder with the checkpoint, for answering questions. A remote one is copied to the cache.

    Raises EnvironmentFailure when the checkpoint is damaged or cannot be downloaded.
    """
    if not is_remote(address):
        return Path(address)
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    try:
        with disk_errors(EnvironmentFailure, "free disk space there", root / CACHE):
            return fetch_checkpoint(address, root / CACHE / digest / name_of(address), without_pickles)
    except Damaged as error:
        raise EnvironmentFailure(f"checkpoint {error}; name another trial's, or train this one again") from None


def stored_damage(address: str) -> str | None:
    """Describe the damage of a checkpoint; None if it is undamaged. Raises StorageError.

    For a remote checkpoint only names and sizes are checked; `fetch_checkpoint` checks every byte.
    """
    if not is_remote(address):
        return folders.damage(Path(address))
    try:
        with reaching(address):
            place = _resolve_address(address)
            manifest = _manifest(place)
            found = {info.base_name: info.size for info in _list_folder(place)}
    except Damaged as error:
        return str(error)
    wrong = next((name for name, entry in manifest.items() if found.get(name) != entry["bytes"]), None)
    return wrong and f"{join_address(address, wrong)}: missing or changed since it was written"


def is_resumable(address: str) -> bool:
    """Return True for an undamaged checkpoint with its training state. Raises StorageError.

    A trial that is running has one without it only if its ledger was restored from a backup.
    """
    if stored_damage(address):
        return False
    if not is_remote(address):
        return has_state(folders.load_json(Path(address) / MANIFEST))
    with reaching(address):
        return has_state(_manifest(_resolve_address(address)))


def remove_stored_state(address: str) -> None:
    """Remove the training state from the checkpoint of a trial that has ended.

    Ignore errors: the checkpoint stays complete, and the next run of its sweep tries again.
    """
    with suppress(OSError, ValueError, Damaged, StorageError), reaching(address):
        if is_remote(address):
            _remove_remote_state(_resolve_address(address))
        else:
            folders.remove_state(Path(address))


def still_stored(addresses: Iterable[str | None]) -> set[str]:
    """Return the addresses that still hold a checkpoint. An unreachable bucket counts as empty."""
    asked = {address for address in addresses if address}
    here = {address for address in asked if not is_remote(address) and Path(address).is_dir()}
    sweeps = {parent(parent(address)) for address in asked if is_remote(address)}
    return here | asked & {address for sweep in sweeps for address in _complete(sweep)}


def delete_stored(addresses: Iterable[str]) -> None:
    """Delete checkpoints. Ignore errors, since nothing needs these checkpoints any more."""
    remote = []
    for address in addresses:
        if is_remote(address):
            remote.append(address)
        else:
            shutil.rmtree(address, ignore_errors=True)
    if remote:
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            list(pool.map(_remove_address, remote))


def copy(address: str, folder: str) -> str | None:
    """Copy the checkpoint of a trial that has ended into `folder`, without training state, and return its address; None
    if it is damaged."""
    if not is_remote(address):
        return None if folders.damage(Path(address)) else deposit(Path(address), folder, without_state)
    target = join_address(folder, name_of(address))
    try:
        if not is_remote(folder):
            return str(fetch_checkpoint(address, Path(target), without_state))
        if stored_damage(address):
            return None
        with reaching(address):
            source, place = _resolve_address(address), _resolve_address(target)
            manifest = without_state(_manifest(source))
            _remove(place)
            for name in manifest:
                source.files.copy_file((source / name).path, (place / name).path)
            _write_manifest(manifest, place)
    except Damaged:
        return None
    return target


def tidy(folder: str, keep: set[str]) -> None:
    """Delete the checkpoints in a remote folder except the addresses in `keep`."""
    with reaching(folder):
        names = [info.base_name for info in _list_folder(_resolve_address(folder))]
    delete_stored({join_address(folder, name) for name in names if name.startswith("checkpoint-")} - keep)


def holds_files(address: str) -> bool:
    """Return True if a folder, local or in a bucket, holds a file at any depth. Raises StorageError."""
    if not is_remote(address):
        return any(path.is_file() for path in Path(address).rglob("*"))
    with reaching(address):
        return any(info.is_file for info in _list_folder(_resolve_address(address), recursive=True))


def read_address(address: str) -> bytes | None:
    """Return a file's content, None if it is missing. Raises StorageError."""
    if not is_remote(address):
        return Path(address).read_bytes() if Path(address).is_file() else None
    with reaching(address):
        return _read_place(_resolve_address(address))


def write_address(address: str, content: bytes) -> None:
    """Write a file. Raises StorageError for a bucket, OSError for a path."""
    if not is_remote(address):
        Path(address).write_bytes(content)
        return
    with reaching(address):
        place = _resolve_address(address)
        with place.files.open_output_stream(place.path) as stream:
            stream.write(content)


def check_address(address: str) -> None:
    """Check that the address is writable: write a small file and delete it. Raises EnvironmentFailure otherwise."""
    probe = join_address(address, f".probe-{os.getpid()}")
    with disk_errors(StorageError, "name another place in [storage] checkpoints", address):
        if not is_remote(address):
            create_folder(Path(address))
        write_address(probe, b"sweeper")
        with reaching(probe):
            _resolve_address(probe).files.delete_file(_resolve_address(probe).path)


def check_readable(address: str) -> None:
    """Check without writing that the address exists. Raises EnvironmentFailure otherwise."""
    if not is_remote(address):
        if not os.access(address, os.W_OK):
            raise StorageError(f"{address}: missing or not writable; check [storage] checkpoints")
        return
    with reaching(address):
        bucket = StoragePlace(_bucket_files(), urlsplit(address).netloc)
        _list_folder(bucket, missing=False)


@contextmanager
def reaching(address: str) -> Iterator[None]:
    """Raise an error or a missing answer of the server as a StorageError of one line."""
    try:
        yield
    except OSError as error:
        if not is_remote(address) or error.errno in DISK_ERRORS:
            raise
        said = shorten(redacted(str(error)), CAUSE_CHARS, placeholder=" …")
        raise StorageError(f"{redacted(address)}: {said}; check that it can be reached and takes files") from error


def _resolve_address(address: str) -> StoragePlace:
    if not is_remote(address):
        from pyarrow.fs import LocalFileSystem

        return StoragePlace(LocalFileSystem(), address)
    parts = urlsplit(address)
    return StoragePlace(_bucket_files(), f"{parts.netloc}{parts.path}".rstrip("/"))


@cache
def _bucket_files() -> Any:
    """Connect to S3 with the environment variables of Amazon's tools, such as AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL,
    AWS_REGION and AWS_ACCESS_KEY_ID."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    where = {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme} if endpoint.netloc else {}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return S3FileSystem(
        **where,
        region=region or "us-east-1",
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
    )


def _list_folder(place: StoragePlace, *, recursive: bool = False, missing: bool = True) -> list[Any]:
    from pyarrow.fs import FileSelector

    selector = FileSelector(place.path, allow_not_found=missing, recursive=recursive)
    return list(place.files.get_file_info(selector))


def _complete(sweep: str) -> list[str]:
    try:
        with reaching(sweep):
            place = _resolve_address(sweep)
            found = [info.path for info in _list_folder(place, recursive=True) if info.base_name == MANIFEST]
    except StorageError:
        return []
    return [f"{sweep}{path.removeprefix(place.path).removesuffix(f'/{MANIFEST}')}" for path in found]


def _manifest(place: StoragePlace) -> dict[str, Any]:
    """Read a checkpoint's manifest. Raises Damaged if it is missing or malformed."""
    try:
        content = _read_place(place / MANIFEST)
        manifest = json.loads(content) if content is not None else None
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or any("/" in name or name in (".", "..", MANIFEST) for name in manifest):
        raise Damaged(f"{SCHEME}://{(place / MANIFEST).path}: missing or not readable")
    return manifest


def _write_manifest(manifest: Manifest, place: StoragePlace) -> None:
    with (place / MANIFEST).files.open_output_stream((place / MANIFEST).path) as stream:
        stream.write(folders.written_json(manifest))


def _remove_remote_state(place: StoragePlace) -> None:
    """Replace the manifest first. A bucket replaces a file as a whole, so the checkpoint is complete at any time."""
    manifest = _manifest(place)
    kept = without_state(manifest)
    if kept != manifest:
        _write_manifest(kept, place)
    for name in state_files([info.base_name for info in _list_folder(place)]):
        place.files.delete_file((place / name).path)


def _read_place(place: StoragePlace) -> bytes | None:
    try:
        with place.files.open_input_stream(place.path) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        return None


def _upload(file: Path, place: StoragePlace) -> None:
    with file.open("rb") as source, place.files.open_output_stream(place.path) as stream:
        shutil.copyfileobj(source, stream, 2**22)


def _download(place: StoragePlace, manifest: dict[str, Any], target: Path) -> None:
    """Download the manifest's files. Raises Damaged if one differs from the manifest."""
    with atomic(target, replace=True) as incoming:
        incoming.mkdir(mode=0o700)
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            list(pool.map(lambda name: _download_file(place / name, incoming / name), manifest))
        folders.write_json(incoming / MANIFEST, manifest)
        if problem := folders.damage(incoming):
            raise Damaged(problem.replace(str(incoming), f"{SCHEME}://{place.path}"))


def _download_file(place: StoragePlace, file: Path) -> None:
    with suppress(FileNotFoundError), place.files.open_input_stream(place.path) as source, file.open("wb") as stream:
        shutil.copyfileobj(source, stream, 2**22)


def _same(folder: Path, manifest: dict[str, Any]) -> bool:
    try:
        return bool(folders.load_json(folder / MANIFEST) == manifest)
    except (OSError, ValueError):
        return False


def _remove(place: StoragePlace) -> None:
    if names := [info.base_name for info in _list_folder(place)]:
        if MANIFEST in names:
            place.files.delete_file((place / MANIFEST).path)
        place.files.delete_dir(place.path)


def _remove_address(address: str) -> None:
    with suppress(StorageError), reaching(address):
        _remove(_resolve_address(address))
