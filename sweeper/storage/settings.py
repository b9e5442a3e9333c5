"""Read the addresses of the root folder, the ledger, MLflow and the checkpoints from `mlflow.ini` and the environment.
Connects to nothing."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from configparser import ConfigParser, DuplicateOptionError, DuplicateSectionError
from configparser import Error as SyntaxMistake
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from jobs.suggestions import unknown_name
from sweeper.errors import ConfigError
from sweeper.secrets import redacted

FILE = "mlflow.ini"
KEYS = {
    "storage": ("root", "ledger", "checkpoints"),
    "mlflow": ("tracking_uri", "artifacts"),
    "ui": ("host", "port"),
    "notify": ("url",),
}
ENVIRONMENT = {
    "SWEEPER_ROOT": ("storage", "root"),
    "SWEEPER_LEDGER": ("storage", "ledger"),
    "SWEEPER_CHECKPOINTS": ("storage", "checkpoints"),
    "MLFLOW_TRACKING_URI": ("mlflow", "tracking_uri"),
}

DATABASES = ("sqlite", "postgresql")
SERVERS = ("http", "https")
_T = TypeVar("_T")
_Place = tuple[str, str]


@dataclass(frozen=True, repr=False)
class Stores:
    """Hold the absolute paths and addresses of all stored data. Its repr hides passwords.

    root         folder of sweeps, features, logs and local databases
    ledger       Optuna storage address
    tracking     MLflow tracking address: a database, or a server (`remote`)
    artifacts    URI for the files of MLflow runs; None with a server, which has its own
    host, port   where `sweeper ui` listens
    checkpoints  folder or s3:// address that all machines reach; None for each sweep's own folder
    folder       folder of `mlflow.ini`, None without such a file
    """

    root: Path
    ledger: str
    tracking: str
    artifacts: str | None
    host: str = "127.0.0.1"
    port: int = 5000
    checkpoints: str | None = None
    folder: Path | None = field(default=None, compare=False)

    @property
    def project(self) -> Path:
        """Return the project folder: the one of `mlflow.ini`, else the one that contains the root."""
        return self.folder or self.root.parent

    @property
    def remote(self) -> bool:
        """Return True if MLflow is a running server."""
        return urlsplit(self.tracking).scheme in SERVERS

    @property
    def address(self) -> str:
        """Return the URL of MLflow's pages, without a password."""
        return redacted(self.tracking) if self.remote else f"http://{self.host}:{self.port}"

    def __repr__(self) -> str:
        parts = (f"{name}={value!r}" for name, value in vars(self).items())
        return redacted(f"Stores({', '.join(parts)})")


class _Setting(NamedTuple):
    """Hold a value as written, its location for messages, and the base folder of its relative paths."""

    place: str
    text: str
    folder: Path


def read_stores(folder: Path | None = None, environ: Mapping[str, str] = os.environ) -> Stores:
    """Read the stores from `mlflow.ini` in `folder` (default: the current one) and from `environ`.

    >>> read_stores(Path("/data"), {}).ledger
    'sqlite:////data/sweeps/ledger.db'

    Creates nothing. Raises ConfigError with one line per mistake.
    """
    folder = Path.cwd() if folder is None else folder.absolute()
    settings, mistakes = _read_file(folder)
    settings |= _read_environment(environ)
    settings.setdefault(("storage", "root"), _Setting(f"{FILE}: [storage] root", "sweeps", folder))

    def get(section: str, key: str, parse: Callable[[str, Path], _T], default: _T) -> _T:
        setting = settings.get((section, key))
        if setting is None:
            return default
        try:
            return parse(setting.text, setting.folder)
        except ValueError as error:
            mistakes.append(f"{setting.place}: {error}")
            return default

    root = get("storage", "root", _path, folder / "sweeps")
    tracking = get("mlflow", "tracking_uri", _tracking, f"sqlite:///{(root / 'mlflow.db').as_posix()}")
    stores = Stores(
        root=root,
        ledger=get("storage", "ledger", _database, f"sqlite:///{(root / 'ledger.db').as_posix()}"),
        tracking=tracking,
        artifacts=get("mlflow", "artifacts", _artifacts_address, (root / "artifacts").as_uri()),
        host=get("ui", "host", _host, "127.0.0.1"),
        port=get("ui", "port", _port, 5000),
        checkpoints=get("storage", "checkpoints", _checkpoints, None),
        folder=folder if (folder / FILE).is_file() else None,
    )
    if stores.remote:
        stores = _without_artifacts(stores, settings, mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    return stores


def notify_setting(folder: Path) -> tuple[str, str] | None:
    """Return the address for messages in `mlflow.ini` and where it stands, None without one.

    It is a secret, so Stores does not hold it. Mistakes in the file are left to `read_stores`.
    """
    setting = _read_file(folder)[0].get(("notify", "url"))
    return (setting.text, setting.place) if setting else None


def _read_file(folder: Path) -> tuple[dict[_Place, _Setting], list[str]]:
    """Read the file's settings by section and key, and the mistakes in its sections and keys."""
    try:
        text = (folder / FILE).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}, []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{FILE}: {error}; make it a UTF-8 text file, or remove it") from None
    parser, lines = _parse_ini(text), _line_numbers(text)
    settings, mistakes = {}, []
    for section in parser.sections():
        for key, value in parser.items(section):
            place = f"{FILE}:{lines.get((section, key), 0)}: [{section}] {key}"
            if mistake := _misplaced(section, key, value):
                mistakes.append(f"{place}: {mistake}")
            elif value:
                settings[section, key] = _Setting(place, value, folder)
        if section not in KEYS:
            mistakes.append(f"{FILE}:{lines[section, '']}: [{section}]: {unknown_name('section', section, KEYS)}")
    return settings, mistakes


def _parse_ini(text: str) -> ConfigParser:
    # the empty name disables [DEFAULT], since its keys would appear in every other section
    parser = ConfigParser(interpolation=None, inline_comment_prefixes=("#", ";"), default_section="")
    try:
        parser.read_string(text)
    except DuplicateSectionError as error:
        raise ConfigError(f"{FILE}:{error.lineno}: [{error.section}]: appears twice; join the two") from None
    except DuplicateOptionError as error:
        place = f"{FILE}:{error.lineno}: [{error.section}] {error.option}"
        raise ConfigError(f"{place}: appears twice; keep one of the two") from None
    except SyntaxMistake as error:
        bad = getattr(error, "errors", None) or [(getattr(error, "lineno", 0), getattr(error, "line", ""))]
        raise ConfigError([_not_understood(number, found) for number, found in bad]) from None
    return parser


def _not_understood(number: int, found: str) -> str:
    line = found.strip("'\"").removesuffix("\\n").strip()  # ConfigParser reports the line as its repr
    if re.search(":/|@", line):  # perhaps a secret address
        line = re.split("[=:]", line)[0].strip()
    return f"{FILE}:{number}: {redacted(line)}: not understood; write `key = value` below a [section]"


def _line_numbers(text: str) -> dict[_Place, int]:
    """Return the line numbers of sections, as (section, ""), and of keys; ConfigParser does not keep them."""
    section, lines = "", {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := ConfigParser.SECTCRE.match(line):
            section = header["header"]
            lines[section, ""] = number
        elif option := ConfigParser.OPTCRE.match(line):
            lines.setdefault((section, option["option"].strip().lower()), number)
    return lines


def _misplaced(section: str, key: str, value: str) -> str | None:
    """Describe the mistake in a key's name or value; None if there is none or its section is unknown."""
    if section not in KEYS:
        return None
    if key not in KEYS[section]:
        return unknown_name("key", key, KEYS[section])
    if "\n" in value:
        return "continues on the next line because that line is indented; start each key at the beginning of its line"
    return None


def _read_environment(environ: Mapping[str, str]) -> dict[_Place, _Setting]:
    return {
        place: _Setting(name, environ[name], Path.cwd()) for name, place in ENVIRONMENT.items() if environ.get(name)
    }


def _without_artifacts(stores: Stores, settings: Mapping[_Place, _Setting], mistakes: list[str]) -> Stores:
    if setting := settings.get(("mlflow", "artifacts")):
        mistakes.append(f"{setting.place}: {stores.address} decides where its runs keep files; remove this key")
    return replace(stores, artifacts=None)


def _path(text: str, folder: Path) -> Path:
    path = folder / Path(text).expanduser()
    if odd := set("?#%") & set(str(path)):
        raise ValueError(f"{path} holds {' '.join(odd)}, special in addresses; choose another folder")
    return Path(os.path.normpath(path))


def _database(text: str, folder: Path) -> str:
    scheme = _scheme(text, DATABASES)
    if scheme != "sqlite":
        return text
    path, mark, options = text.removeprefix("sqlite:///").partition("?")
    if not text.startswith("sqlite:///") or path in ("", ":memory:"):
        raise ValueError(f"{redacted(text)} names no file; write sqlite:///FILE with three slashes")
    return f"sqlite:///{_path(path, folder).as_posix()}{mark}{options}"


def _tracking(text: str, folder: Path) -> str:
    if urlsplit(text).scheme == "file" or (":" not in text and not text.endswith((".db", ".sqlite"))):
        raise ValueError(
            f"{text} is neither database nor server, and MLflow no longer keeps runs in folders; "
            "write sqlite:///mlflow.db"
        )
    if _scheme(text, DATABASES + SERVERS) not in SERVERS:
        return _database(text, folder)
    if not urlsplit(text).hostname:
        raise ValueError(f"{redacted(text)} names no host; write http://HOST:PORT")
    return text.rstrip("/")


def _scheme(text: str, known: tuple[str, ...]) -> str:
    """Return the scheme without a driver: `postgresql` for postgresql+psycopg. Raises ValueError if it is not known."""
    scheme = text.partition(":")[0].partition("+")[0] if ":" in text else ""
    if scheme in known:
        return scheme
    if not scheme:
        raise ValueError(f"{text} is no address; write sqlite:///{text} if it is a file")
    raise ValueError(f"{redacted(text)}: {unknown_name('scheme', scheme, known)}")


def _artifacts_address(text: str, folder: Path) -> str:
    return text.rstrip("/") if "://" in text else _path(text, folder).as_uri()


def _checkpoints(text: str, folder: Path) -> str:
    if "://" not in text:
        return str(_path(text, folder))
    parts = urlsplit(text)
    if parts.scheme != "s3" or not parts.netloc or set("@?#%") & set(text):
        raise ValueError(f"{redacted(text)} is neither a folder nor a bucket; write a path, or s3://BUCKET/FOLDER")
    return text.rstrip("/")


def _host(text: str, _folder: Path) -> str:
    try:
        loopback = text == "localhost" or ipaddress.IPv4Address(text).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(
            f"{text} can be reached by others and MLflow's pages ask for no password; keep 127.0.0.1 "
            "and come in through `ssh -L`, or run an MLflow server and name it in tracking_uri"
        )
    return text


def _port(text: str, _folder: Path) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65_535):
        raise ValueError(f"{text} is no port; write a whole number from 1 to 65535")
    return int(text)
