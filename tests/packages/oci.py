"""Checks an OCI layout: every blob is what its digest says, nothing runs as root, and the program runs from the layer
alone (in a chroot, as the image's user). Argument: the folder."""
import gzip, hashlib, io, json, os, subprocess, sys, tarfile, tempfile

at = sys.argv[1]
assert json.load(open(f"{at}/oci-layout"))["imageLayoutVersion"] == "1.0.0"

def blob(described):
    kind, digest = described["digest"].split(":")
    data = open(f"{at}/blobs/{kind}/{digest}", "rb").read()
    assert hashlib.sha256(data).hexdigest() == digest and len(data) == described["size"], digest
    return data

[described] = json.load(open(f"{at}/index.json"))["manifests"]
manifest = json.loads(blob(described))
config = json.loads(blob(manifest["config"]))
[layer] = [gzip.decompress(blob(one)) for one in manifest["layers"]]
assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(layer).hexdigest()]
run = config["config"]
uid, gid = map(int, run["User"].split(":"))
assert uid and gid, "runs as root"
assert run["Healthcheck"]["Test"][0] == "CMD", "a health check without a shell"
with tempfile.TemporaryDirectory() as root:
    os.chmod(root, 0o755)
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert all(entry.uid == 0 and not entry.name.startswith(("/", "..")) for entry in tar), "names and owners"
        names = set(tar.getnames())
        tar.extractall(root)
    assert not any(name.endswith(("/sh", "/bash")) for name in names), "a shell"
    def inside():
        os.chroot(root)
        os.chdir("/")
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    def entryway(*words):
        env = dict(pair.split("=", 1) for pair in run["Env"])
        words = run["Entrypoint"] + list(words)
        return subprocess.run(words, executable=words[0], preexec_fn=inside, env=env, capture_output=True, text=True, timeout=60)
    version = entryway("version")
    assert version.returncode == 0 and version.stdout.startswith("entryway "), version
    assert entryway("healthcheck").returncode != 0, "healthy without an instance"
print("image", described["digest"])
