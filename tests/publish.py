"""The independent client of tests/publish.rs: python-tuf reads what `tidegate repo` wrote, over HTTP.

    publish.py REPOSITORY ROOT URL            downloads every target, prints them by name as JSON
    publish.py REPOSITORY ROOT URL --tamper   changes a byte of each file that was fetched, one after the other, and
                                              prints which were refused and which were not
"""

import json
import pathlib
import sys
import tempfile
import urllib.parse

from tuf.api.exceptions import RepositoryError
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.urllib3_fetcher import Urllib3Fetcher


class Noting(FetcherInterface):
    """The usual fetcher, which remembers the paths that were there."""

    def __init__(self):
        self.inner = Urllib3Fetcher()
        self.paths = []

    def _fetch(self, url):
        chunks = self.inner._fetch(url)
        self.paths.append(urllib.parse.urlsplit(url).path.lstrip("/"))
        return chunks


def download(root, url):
    """All targets by name, a character for a byte, and the files that were fetched."""
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as files:
        fetcher = Noting()
        updater = Updater(cache, f"{url}/metadata/", files, f"{url}/targets/", fetcher=fetcher, bootstrap=root)
        updater.refresh()
        found = {}
        for name in sorted(updater._trusted_set.targets.targets):
            path = updater.download_target(updater.get_targetinfo(name))
            found[name] = pathlib.Path(path).read_bytes().decode("latin-1")
        return found, fetcher.paths


def tamper(repository, root, url):
    _, paths = download(root, url)
    refused, accepted = [], []
    for path in paths:
        file = repository / path
        whole = file.read_bytes()
        at = len(whole) // 2
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            download(root, url)
            accepted.append(path)
        except RepositoryError:
            refused.append(path)
        finally:
            file.write_bytes(whole)
    return {"refused": refused, "accepted": accepted}


def main():
    repository, root, url, *rest = sys.argv[1:]
    root = pathlib.Path(root).read_bytes()
    if rest:
        answer = tamper(pathlib.Path(repository), root, url)
    else:
        answer, _ = download(root, url)
    json.dump(answer, sys.stdout)


main()
