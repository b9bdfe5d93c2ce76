#!/usr/bin/env python3
"""Repositories made by python-tuf, good and hostile: make.py OUT COMPONENT.wasm

Each case is a folder of OUT: `root.json` is what the device trusts, `good/` is served first and has to be taken, `then/` is
served after it. What has to come of that stands in tests/deploy/main.rs. Nothing here is our code: python-tuf signs, and what
it would not write by itself is made of its bytes.
"""

import copy
import hashlib
import json
import shutil
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

ROLES = ("root", "timestamp", "snapshot", "targets")
LATER = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=300)
PAST = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(days=1)
COMPACT = JSONSerializer(compact=True)


class Publisher:
    """A repository that is published again and again into one folder, as a real one is."""

    def __init__(self, component: Path, hashes: bool = False, timestamp_keys: int = 1) -> None:
        self.component = component.read_bytes()
        self.manifest = json.loads(component.with_suffix(".json").read_text())
        self.hashes = hashes
        self.signers = {
            "root": [key(), key()],
            "timestamp": [key() for _ in range(timestamp_keys)],
            "snapshot": [key()],
            "targets": [key()],
        }
        self.root = Root(version=1, expires=LATER, consistent_snapshot=True)
        for role, signers in self.signers.items():
            for signer in signers:
                self.root.add_key(signer.public_key, role)
        self.root.roles["root"].threshold = 2
        self.timestamp = Timestamp(expires=LATER)
        self.snapshot = Snapshot(expires=LATER)
        self.targets = Targets(expires=LATER)
        # `publish` goes on to the next.
        self.timestamp.version = self.snapshot.version = self.targets.version = 0
        self.epoch = 0
        # What release documents say instead of the truth.
        self.release_says: dict = {}
        self.files: dict[str, bytes] = {}
        self.roots: dict[int, bytes] = {}
        self.sign_root(self.signers["root"])

    def sign_root(self, signers: list) -> None:
        metadata = Metadata(copy.deepcopy(self.root))
        for signer in signers:
            metadata.sign(signer, append=True)
        self.roots[self.root.version] = metadata.to_bytes(COMPACT)

    def add(self, name: str, data: bytes) -> None:
        self.files[name] = data
        self.targets.targets[name] = TargetFile.from_data(name, data, ["sha256"])

    def renew(self) -> None:
        """A custom section at the end: another digest, and as good a component."""
        self.component += bytes([0, 9, 4]) + b"more" + b"1234"

    def release(self, version: str, **channel) -> None:
        """A module of a version, and a channel that names it."""
        self.epoch += 1
        digest = "sha256:" + hashlib.sha256(self.component).hexdigest()
        manifest = {**self.manifest, "version": version, "digest": digest}
        manifest.pop("vectors", None)
        name = manifest["name"]
        release = {
            "v": 1,
            "name": name,
            "version": version,
            "digest": digest,
            "bytes": len(self.component),
            "world": manifest["world"],
            "grants": sorted(manifest.get("grants", [])),
            "manifest": manifest,
        }
        self.add(f"modules/{name}/{version}.wasm", self.component)
        self.add(f"modules/{name}/{version}.json", json.dumps({**release, **self.release_says}).encode())
        document = {
            "v": 1,
            "channel": "stable",
            "epoch": self.epoch,
            "published": 1764000000000,
            "modules": {name: {"version": version, "digest": digest}},
            **channel,
        }
        self.add("channels/stable.json", json.dumps(document).encode())

    def publish(self) -> None:
        """Every role's next version."""
        self.targets.version += 1
        self.snapshot.version += 1
        self.timestamp.version += 1

    def signed(self, role: str, signed, signers: list | None = None) -> bytes:
        metadata = Metadata(copy.deepcopy(signed))
        for signer in self.signers[role] if signers is None else signers:
            metadata.sign(signer, append=True)
        return metadata.to_bytes(COMPACT)

    def meta(self, version: int, data: bytes) -> MetaFile:
        if not self.hashes:
            return MetaFile(version)
        return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})

    def write(self, out: Path, signers: dict | None = None) -> None:
        """Signs what there is and lays it down beside what lies there."""
        signers = signers or {}
        (out / "metadata").mkdir(parents=True, exist_ok=True)
        targets = self.signed("targets", self.targets, signers.get("targets"))
        self.snapshot.meta["targets.json"] = self.meta(self.targets.version, targets)
        snapshot = self.signed("snapshot", self.snapshot, signers.get("snapshot"))
        self.timestamp.snapshot_meta = self.meta(self.snapshot.version, snapshot)
        timestamp = self.signed("timestamp", self.timestamp, signers.get("timestamp"))
        (out / f"metadata/{self.targets.version}.targets.json").write_bytes(targets)
        (out / f"metadata/{self.snapshot.version}.snapshot.json").write_bytes(snapshot)
        (out / "metadata/timestamp.json").write_bytes(timestamp)
        for version, root in self.roots.items():
            (out / f"metadata/{version}.root.json").write_bytes(root)
        for name, data in self.files.items():
            folder, _, file = name.rpartition("/")
            digest = hashlib.sha256(data).hexdigest()
            # python-tuf asks for folder/digest.file. A name that leads elsewhere is not written at all.
            if ".." not in name:
                path = out / "targets" / folder / f"{digest}.{file}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)


def key() -> CryptoSigner:
    return CryptoSigner.generate_ed25519()


class Case:
    """The folder of one case, with a publisher that has published three times and the copies of each time."""

    def __init__(self, out: Path, component: Path, name: str, **more) -> None:
        self.dir = out / name
        self.publisher = Publisher(component, **more)
        self.copies = []
        for version in ("1.0.0", "1.1.0", "1.2.0"):
            self.publisher.release(version)
            self.publisher.publish()
            # One of the keys, where there are more.
            self.publisher.write(self.dir / "good", {"timestamp": self.publisher.signers["timestamp"][:1]})
            copy_of = self.dir / f"copy{len(self.copies) + 1}"
            shutil.copytree(self.dir / "good", copy_of)
            self.copies.append(copy_of)
        (self.dir / "root.json").write_bytes(self.publisher.roots[1])
        self.then = self.dir / "then"
        shutil.copytree(self.dir / "good", self.then)

    def metadata(self, name: str) -> Path:
        return self.then / "metadata" / name


def main() -> None:
    out, component = Path(sys.argv[1]), Path(sys.argv[2])
    case = lambda name, **more: Case(out, component, name, **more)  # noqa: E731

    # What has to be taken.
    c = case("next-publication")
    c.publisher.renew()
    c.publisher.release("1.3.0")
    c.publisher.publish()
    c.publisher.write(c.then)

    c = case("next-publication-with-hashes", hashes=True)
    c.publisher.renew()
    c.publisher.release("1.3.0")
    c.publisher.publish()
    c.publisher.write(c.then)

    def rotate(p: Publisher, roles: tuple) -> list:
        """New keys for roles; the old root keys."""
        old = p.signers["root"]
        for role in roles:
            for signer in p.signers[role]:
                p.root.revoke_key(signer.public_key.keyid, role)
            p.signers[role] = [key() for _ in p.signers[role]]
            for signer in p.signers[role]:
                p.root.add_key(signer.public_key, role)
        p.root.version += 1
        return old

    c = case("root-rotation")
    old = rotate(c.publisher, ("root",))
    c.publisher.sign_root(old + c.publisher.signers["root"])
    old = rotate(c.publisher, ("timestamp", "snapshot", "targets"))
    c.publisher.sign_root(c.publisher.signers["root"])
    c.publisher.renew()
    c.publisher.release("1.3.0")
    c.publisher.publish()
    c.publisher.write(c.then)

    # An intruder had the keys and drove the versions up; the publisher recovers with other keys and lower versions.
    c = case("fast-forward-recovery")
    p = c.publisher
    before = copy.deepcopy((p.timestamp.version, p.snapshot.version, p.targets.version, p.epoch))
    p.timestamp.version = p.snapshot.version = p.targets.version = 2**31
    p.epoch = 2**31
    p.release("1.2.9")
    p.write(c.dir / "good")
    p.timestamp.version, p.snapshot.version, p.targets.version, p.epoch = before
    rotate(p, ("timestamp", "snapshot", "targets"))
    p.sign_root(p.signers["root"])
    p.release("1.3.0")
    p.publish()
    p.write(c.then)

    # Rollback.
    c = case("rollback-timestamp")
    shutil.copy(c.copies[1] / "metadata/timestamp.json", c.metadata("timestamp.json"))

    c = case("rollback-of-everything")
    shutil.rmtree(c.then)
    shutil.copytree(c.copies[0], c.then)

    c = case("rollback-snapshot")
    p = c.publisher
    p.timestamp.version += 1
    p.timestamp.snapshot_meta = MetaFile(2)
    c.metadata("timestamp.json").write_bytes(p.signed("timestamp", p.timestamp))

    c = case("rollback-targets")
    p = c.publisher
    p.snapshot.version += 1
    p.timestamp.version += 1
    p.snapshot.meta["targets.json"] = MetaFile(2)
    p.timestamp.snapshot_meta = MetaFile(p.snapshot.version)
    c.metadata(f"{p.snapshot.version}.snapshot.json").write_bytes(p.signed("snapshot", p.snapshot))
    c.metadata("timestamp.json").write_bytes(p.signed("timestamp", p.timestamp))

    # Of the keys of the timestamp one had to sign; now two have to. What one signed counts no more, and with it goes what tough
    # compares with.
    c = case("rollback-under-a-raised-threshold", timestamp_keys=2)
    p = c.publisher
    p.root.roles["timestamp"].threshold = 2
    p.root.version += 1
    p.sign_root(p.signers["root"])
    p.timestamp.version = 2
    p.write(c.then)

    # Time.
    for role in ("root", "timestamp", "snapshot", "targets"):
        c = case(f"expired-{role}")
        p = c.publisher
        getattr(p, role).expires = PAST
        p.release("1.3.0")
        p.publish()
        if role == "root":
            p.root.version += 1
            p.sign_root(p.signers["root"])
        p.write(c.then)

    # Files of different moments.
    c = case("mix-and-match-snapshot")
    p = c.publisher
    p.publish()
    p.write(c.then)
    shutil.copy(c.metadata("3.snapshot.json"), c.metadata("4.snapshot.json"))

    c = case("mix-and-match-targets")
    p = c.publisher
    p.publish()
    p.write(c.then)
    shutil.copy(c.metadata("2.targets.json"), c.metadata("4.targets.json"))

    # The same version, signed as it has to be, with another content than the timestamp's digest says.
    c = case("mix-and-match-by-digest", hashes=True)
    p = c.publisher
    p.publish()
    p.write(c.then)
    p.snapshot.expires = LATER + timedelta(days=1)
    c.metadata("4.snapshot.json").write_bytes(p.signed("snapshot", p.snapshot))

    # Signatures.
    for role in ("timestamp", "snapshot", "targets"):
        c = case(f"unsigned-{role}")
        c.publisher.publish()
        c.publisher.write(c.then, {role: []})
        c = case(f"strange-key-{role}")
        c.publisher.publish()
        c.publisher.write(c.then, {role: [key()]})

    c = case("key-of-another-role")
    c.publisher.publish()
    c.publisher.write(c.then, {"targets": c.publisher.signers["snapshot"]})

    c = case("root-below-threshold")
    p = c.publisher
    p.root.version += 1
    p.sign_root(p.signers["root"][:1])
    p.publish()
    p.write(c.then)

    c = case("root-signed-twice-by-one-key")
    p = c.publisher
    p.root.version += 1
    p.sign_root(p.signers["root"][:1])
    root = json.loads(p.roots[2])
    root["signatures"] *= 2
    p.roots[2] = json.dumps(root).encode()
    p.publish()
    p.write(c.then)

    c = case("root-rotation-without-the-old-keys")
    p = c.publisher
    rotate(p, ("root",))
    p.sign_root(p.signers["root"])
    p.publish()
    p.write(c.then)

    c = case("root-skips-a-version")
    p = c.publisher
    p.root.version = 3
    p.sign_root(p.signers["root"])
    p.roots = {1: p.roots[1], 2: p.roots[3]}
    p.publish()
    p.write(c.then)

    # Sizes.
    c = case("oversize-timestamp")
    p = c.publisher
    p.publish()
    p.timestamp.unrecognized_fields["x"] = "x" * 20_000
    p.write(c.then)

    c = case("oversize-root")
    p = c.publisher
    p.root.version += 1
    p.root.unrecognized_fields["x"] = "x" * 600_000
    p.sign_root(p.signers["root"])
    p.write(c.then)

    c = case("oversize-targets")
    p = c.publisher
    p.publish()
    p.targets.unrecognized_fields["x"] = "x" * 4_500_000
    p.write(c.then)

    c = case("metadata-of-another-length", hashes=True)
    p = c.publisher
    p.publish()
    p.write(c.then)
    path = c.metadata("4.snapshot.json")
    path.write_bytes(path.read_bytes() + b"\n" * 100)

    # Targets that are not what was signed.
    def new_component(c: Case) -> Path:
        p = c.publisher
        p.renew()
        p.release("1.3.0")
        p.publish()
        p.write(c.then)
        return next((c.then / "targets/modules/range").glob("*.1.3.0.wasm"))

    c = case("target-too-short")
    path = new_component(c)
    path.write_bytes(path.read_bytes()[:-7])

    c = case("target-too-long")
    path = new_component(c)
    path.write_bytes(path.read_bytes() + b"more")

    c = case("target-changed")
    path = new_component(c)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    c = case("target-missing")
    new_component(c).unlink()

    for name in ("endless-target", "slow-target", "broken-lines"):
        new_component(case(name))

    for name in ("endless-timestamp", "slow-timestamp", "silent-timestamp", "endless-headers"):
        c = case(name)
        c.publisher.release("1.3.0")
        c.publisher.publish()
        c.publisher.write(c.then)

    # Names.
    for name, target in (
        ("path-traversal", "../../../../etc/passwd"),
        ("path-traversal-inside", "modules/../channels/stable.json"),
        ("absolute-path", "/etc/passwd"),
        ("url-in-a-name", "modules/range/1.0.0.wasm?x"),
        ("backslash-in-a-name", "modules\\range.wasm"),
    ):
        c = case(name)
        p = c.publisher
        p.add(target, b"x")
        p.files.pop(target)
        p.publish()
        p.write(c.then)

    # JSON.
    def doctored(name: str, old: bytes, new: bytes) -> None:
        c = case(name)
        c.publisher.publish()
        c.publisher.write(c.then)
        path = c.metadata("timestamp.json")
        data = path.read_bytes()
        assert old in data, (name, data)
        path.write_bytes(data.replace(old, new, 1))

    doctored("duplicate-key-in-signed", b'"version":4', b'"version":9,"version":4')
    doctored("duplicate-key-outside", b'{"signatures":', b'{"signatures":[],"signatures":')
    doctored("not-json", b"{", b"<html>")
    c = case("deep-json")
    c.metadata("timestamp.json").write_bytes(b"[" * 10_000)
    c = case("empty-timestamp")
    c.metadata("timestamp.json").write_bytes(b"")
    c = case("no-timestamp")
    c.metadata("timestamp.json").unlink()

    # Channels.
    def channel(name: str, **document) -> None:
        c = case(name)
        c.publisher.release("1.3.0", **document)
        c.publisher.publish()
        c.publisher.write(c.then)

    digest = hashlib.sha256(component.read_bytes()).hexdigest()
    channel("channel-epoch-back", epoch=2)
    channel("channel-epoch-again", epoch=3)
    channel("channel-names-another-digest", modules={"range": {"version": "1.3.0", "digest": "sha256:" + "0" * 64}})
    channel("channel-names-nothing-there", modules={"range": {"version": "9.9.9", "digest": "sha256:" + digest}})
    c = case("channel-gone")
    p = c.publisher
    del p.targets.targets["channels/stable.json"]
    p.publish()
    p.write(c.then)
    c = case("channel-with-a-duplicate-key")
    p = c.publisher
    p.release("1.3.0")
    document = p.files["channels/stable.json"]
    p.add("channels/stable.json", document.replace(b'"epoch"', b'"epoch": 1, "epoch"', 1))
    p.publish()
    p.write(c.then)

    # A component that is none, and a manifest that names another: signed, and of no use.
    c = case("module-that-is-none")
    p = c.publisher
    p.component = b"no component"
    p.release("1.3.0")
    p.publish()
    p.write(c.then)
    def release(case_name: str, **says) -> None:
        c = case(case_name)
        c.publisher.release_says = says
        c.publisher.release("1.3.0")
        c.publisher.publish()
        c.publisher.write(c.then)

    release("release-of-another-module", name="other")
    release("release-with-another-length", bytes=7)
    release("release-for-a-later-daemon", minimum_daemon="99.0.0")
    release("release-without-a-manifest", manifest={})


if __name__ == "__main__":
    main()
