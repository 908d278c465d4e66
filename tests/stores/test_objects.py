import os
import re
import subprocess
import sys

import pytest

from bathyscope.errors import MissingArtifact, StoreError
from bathyscope.stores.objects import Objects, local_path


def test_what_is_put_is_read_back_and_may_be_replaced(objects):
    objects.put("a/b", b"one")
    objects.put("a/b", memoryview(b"three"))

    assert objects.get("a/b") == b"three"
    assert objects.size("a/b") == 5
    assert objects.exists("a/b")


def test_an_empty_object_is_an_object(objects):
    objects.put("empty", b"")

    assert objects.get("empty") == b""
    assert objects.size("empty") == 0
    assert objects.exists("empty")


def test_create_writes_once_only(objects):
    assert objects.create("a/b", b"first")
    assert not objects.create("a/b", b"second")
    assert objects.get("a/b") == b"first"


def test_a_missing_object_is_named_with_its_folder(objects):
    inside = objects.at("run")

    with pytest.raises(MissingArtifact, match=r"no object 'a/b' in .*/run\. Run the stage"):
        inside.get("a/b")
    with pytest.raises(MissingArtifact, match="no object 'a/b'"):
        inside.get_range("a/b", 0, 1)
    assert inside.size("a/b") is None
    assert not inside.exists("a/b")


def test_a_range_is_start_and_length(objects):
    objects.put("k", b"0123456789")

    assert objects.get_range("k", 2, 3) == b"234"
    assert objects.get_range("k", 9, 1) == b"9"


@pytest.mark.parametrize(
    "key", ["resid_post.9/seg/c.0.0", "model.layers.3:in/x y.json", "h[0]/é%/z", "a~b/c*d"]
)
def test_keys_come_back_from_a_listing_as_they_were_put(objects, key):
    objects.put(key, b"four")

    assert list(objects.walk()) == [(key, 4)]
    assert list(objects.at(key.split("/")[0]).walk()) == [(key.partition("/")[2], 4)]
    assert objects.get(key) == b"four"


def test_walk_goes_below_a_folder_and_not_below_its_namesakes(objects):
    for key in ("a/x", "a/b/y", "ab/z", "w"):
        objects.put(key, b"1")

    assert sorted(k for k, _ in objects.walk("a")) == ["a/b/y", "a/x"]
    assert sorted(k for k, _ in objects.walk()) == ["a/b/y", "a/x", "ab/z", "w"]
    assert list(objects.walk("nothing")) == []


def test_children_are_folders_and_files_are_objects_of_one_level(objects):
    for key in ("a/x", "a/b/y", "a/c/z", "w"):
        objects.put(key, b"1")

    assert objects.children() == ["a"]
    assert objects.children("a") == ["b", "c"]
    assert objects.children("nothing") == []
    assert objects.files() == ["w"]
    assert objects.files("a") == ["x"]


def test_a_folder_is_deleted_with_all_below_it_and_nothing_beside_it(objects):
    for key in ("a/x", "a/b/y", "ab/z"):
        objects.put(key, b"1")

    assert objects.delete_folder("a") == 2
    assert objects.delete_folder("a") == 0
    assert [k for k, _ in objects.walk()] == ["ab/z"]


def test_deleting_nothing_is_no_error(objects):
    objects.put("a", b"1")
    objects.delete("a")
    objects.delete("a")

    assert not objects.exists("a")


def test_views_see_the_same_objects(objects):
    view = objects.at("run").at("activations.zarr/")
    view.put("k", b"1")

    assert objects.get("run/activations.zarr/k") == b"1"
    assert view.key("k") == "run/activations.zarr/k"
    assert view.location == f"{objects.url}/run/activations.zarr"
    assert objects.at("").location == objects.url


def test_a_memory_url_names_one_store_in_a_process():
    Objects("memory://one-name").put("k", b"1")

    assert Objects("memory://one-name").get("k") == b"1"
    assert not Objects("memory://another-name").exists("k")


@pytest.mark.parametrize("below", ["", "/run", "/deep/run"])
def test_a_path_that_is_or_lies_under_a_file_is_refused(tmp_path, below):
    file = tmp_path / "notes.txt"
    file.write_text("mine")

    for url in (f"{file}{below}", f"file://{file}{below}"):
        with pytest.raises(StoreError, match=r"notes\.txt is a file\. A folder was wanted"):
            Objects(url)
    assert file.read_text() == "mine"


def test_paths_and_file_urls_are_the_same_folder(tmp_path):
    Objects(str(tmp_path)).put("k", b"1")

    assert Objects(f"file://{tmp_path}").get("k") == b"1"
    assert local_path(f"file://{tmp_path}") == tmp_path
    assert local_path("s3://bucket/run") is None
    assert local_path("~/run") == local_path(os.path.expanduser("~/run"))


def test_a_killed_writer_leaves_no_object_and_a_sweep_takes_its_temporary_file(disk, tmp_path):
    # SIGKILL comes while the put is on its way: the file that it fills is no object yet.
    code = (
        "import sys; from bathyscope.stores.objects import Objects\n"
        "objects = Objects(sys.argv[1]); data = bytes(2**28); print('go', flush=True)\n"
        "objects.put('seg/c.0', data)"
    )
    folder = tmp_path / "store" / "seg"
    with subprocess.Popen([sys.executable, "-c", code, disk.url], stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        while not (folder.exists() and any(folder.iterdir())):
            assert writer.poll() is None
        writer.kill()
    (left,) = folder.iterdir()
    assert re.fullmatch(r"c\.0#\d+", left.name)

    assert list(disk.walk()) == []
    disk.sweep("seg")
    assert not folder.exists()


def test_a_sweep_keeps_objects_and_their_folders(disk, tmp_path):
    disk.put("seg/a/x", b"1")
    (tmp_path / "store/seg/b/c").mkdir(parents=True)

    disk.sweep("seg")

    assert list(disk.walk()) == [("seg/a/x", 1)]
    assert disk.children("seg") == ["a"]


def test_a_sweep_of_memory_does_nothing():
    objects = Objects("memory://swept")
    objects.put("a", b"1")
    objects.sweep("")

    assert objects.exists("a")
