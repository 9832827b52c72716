// What people do with @huggingface/hub, call by call; prints lines as `python -m
// tests.support.hub_calls` does. HF_ENDPOINT and HF_TOKEN name the registry and the key.
//
//     node javascript.mjs SCENE.json
import * as hub from "@huggingface/hub";
import assert from "node:assert";
import { readFileSync } from "node:fs";

const scene = JSON.parse(readFileSync(process.argv[2]));
const key = process.env.HF_TOKEN;
const common = { hubUrl: process.env.HF_ENDPOINT, accessToken: `hf_${key}` };
const repo = `${scene.domain}/kept`, fresh = `${scene.domain}/javascript`;
const names = ["README.md", "adapter_config.json", "adapter_model.safetensors"];
const read = (folder, name) => readFileSync(`${scene.folders[folder]}/${name}`);
const files = (folder) => names.map((path) => ({ path, content: new Blob([read(folder, path)]) }));
const all = async (items) => { const found = []; for await (const item of items) found.push(item); return found; };
const card = (text) => ({ operation: "addOrUpdate", path: "README.md", content: new Blob([read("first", "README.md"), text]) });

const calls = [
  ["a token without hf_", () => hub.whoAmI({ ...common, accessToken: key }), "must start with 'hf_'"],
  ["whoAmI", async () => assert.equal((await hub.whoAmI(common)).type, "user")],
  ["createRepo", () => hub.createRepo({ ...common, repo: fresh })],
  ["uploadFiles", () => hub.uploadFiles({ ...common, repo: fresh, files: files("first"), commitTitle: "From JavaScript" })],
  ["uploadFile", () => hub.uploadFile({ ...common, repo: fresh, file: { path: "LICENSE", content: new Blob(["MIT\n"]) } })],
  ["uploadFilesWithProgress", () => all(hub.uploadFilesWithProgress({ ...common, repo: fresh, files: files("second") }))],
  ["deleteFile", () => hub.deleteFile({ ...common, repo: fresh, path: "LICENSE" })],
  ["commit on the newest parent", async () => {
    const [newest] = await all(hub.listCommits({ ...common, repo }));
    await hub.commit({ ...common, repo, title: "On top", operations: [card("\nMore.\n")], parentCommit: newest.oid });
    const [now] = await all(hub.listCommits({ ...common, repo }));
    assert.equal(now.title, "On top");
  }],
  ["commit on an older parent", () => hub.commit({ ...common, repo, title: "x", operations: [card("\nLess.\n")], parentCommit: scene.commits[0] }), "A commit has happened since"],
  ["uploadFiles as a pull request", () => hub.uploadFiles({ ...common, repo, files: files("first"), isPullRequest: true }), "pull requests"],
  ["listFiles", async () => {
    const found = await all(hub.listFiles({ ...common, repo, recursive: true, expand: true }));
    assert.deepEqual(found.map((file) => file.path).sort(), names);
    assert(found.every((file) => file.lastCommit));
  }],
  ["pathsInfo", async () => assert.equal((await hub.pathsInfo({ ...common, repo, paths: ["README.md", "none.md"] })).length, 1)],
  ["downloadFile", async () => {
    const blob = await hub.downloadFile({ ...common, repo, path: "README.md", revision: "live" });
    assert.equal(await blob.text(), read("first", "README.md").toString());
  }],
  ["snapshotDownload", () => hub.snapshotDownload({ ...common, repo, revision: "live", cacheDir: `${scene.work}/javascript` })],
  ["fileExists", async () => {
    assert(await hub.fileExists({ ...common, repo, path: "README.md" }));
    assert(!(await hub.fileExists({ ...common, repo, path: "none.md" })));
  }],
  ["fileDownloadInfo", async () => assert.equal((await hub.fileDownloadInfo({ ...common, repo, path: "README.md", revision: "1" })).size, read("first", "README.md").length)],
  ["parseSafetensorsMetadata", () => hub.parseSafetensorsMetadata({ ...common, repo, path: "adapter_model.safetensors" })],
  ["countCommits", async () => assert((await hub.countCommits({ ...common, repo })) >= 3)],
  ["modelInfo", async () => {
    const info = await hub.modelInfo({ ...common, name: repo, additionalFields: ["cardData", "sha"] });
    assert.deepEqual([info.sha, info.cardData.license], [scene.commits[1], "apache-2.0"]);
  }],
  ["listModels", async () => assert((await all(hub.listModels({ ...common, search: { owner: scene.domain }, sort: "lastModified" }))).length >= 2)],
  ["repoExists", async () => {
    assert(await hub.repoExists({ ...common, repo }));
    assert(!(await hub.repoExists({ ...common, repo: `${scene.domain}/none` })));
  }],
  ["checkRepoAccess", () => hub.checkRepoAccess({ ...common, repo })],
  ["createBranch", () => hub.createBranch({ ...common, repo, branch: "dev" }), "not offered"],
  ["deleteRepo", () => hub.deleteRepo({ ...common, repo }), "not offered"],
  ["createCollection", () => hub.createCollection({ ...common, collection: { title: "x", namespace: scene.domain } }), "not offered"],
];
for (const [call, run, words] of calls) {
  let outcome = words ? "fault" : "works", why = words ? `not refused: ${words}` : "";
  try { await run(); } catch (error) {
    why = `${error.name}: ${error.message}`;
    if (!words || !why.includes(words)) outcome = "fault";
    else outcome = why.includes("not offered") ? "not offered" : "refused";
  }
  console.log(JSON.stringify({ call, outcome, why }));
}
