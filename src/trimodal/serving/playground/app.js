// The playground: one question to every chosen model, answers side by side. No library; nothing is fetched from anywhere but this server.
import { toWave, drawWave } from "./sound.js";
import { showAnswer, measureAgreement } from "./answers.js";

const WORDS = { embed: "compare", classify: "classify", detect: "detect", transcribe: "transcribe", ask: "ask" };
const ROUNDS = 3;
const $ = (id) => document.getElementById(id);
const state = { models: [], task: null, image: null, audio: null, key: sessionStorage.getItem("key") || "" };

async function call(path, options = {}) {
  const headers = { ...(options.headers || {}), ...(state.key ? { Authorization: `Bearer ${state.key}` } : {}) };
  const reply = await fetch(path, { ...options, headers });
  if (reply.status === 401 || reply.status === 403) { $("key-form").hidden = false; throw new Error("This server asks for a key."); }
  if (reply.status === 429) throw new Error(`The server is busy; try again in ${reply.headers.get("Retry-After") || "a few"} s.`);
  return reply;
}

async function readError(reply) {
  const text = await reply.text();
  try { const said = JSON.parse(text).error; return typeof said === "string" ? said : said.message; } catch { return `The server answered ${reply.status}.`; }
}

async function readModels() {
  try {
    const reply = await call("v1/models");
    if (!reply.ok) throw new Error(await readError(reply));
    state.models = (await reply.json()).data.map((model) => ({ ...model, asked: true }));
  } catch (failed) { $("loading").textContent = failed.message; return; }
  const largest = Math.max(...state.models.map((model) => model.bytes));
  const rows = state.models.map((model) => {
    const row = document.createElement("tr"), box = document.createElement("input");
    Object.assign(box, { type: "checkbox", checked: true, id: `ask-${model.id}` });
    box.setAttribute("aria-label", `ask ${model.id}`);
    box.addEventListener("change", () => { model.asked = box.checked; chooseTasks(); });
    const smaller = largest / model.bytes, size = `${formatBytes(model.bytes)}${smaller > 1.05 ? `, ${smaller.toFixed(1)} × smaller` : ""}`;
    row.append(cell("td", box), cell("th", model.id, { scope: "row" }), cell("td", size, { className: "n" }), cell("td", model.runtime),
               cell("td", model.tasks.map((task) => WORDS[task]).join(", ") || "tensors only"));
    return row;
  });
  $("models").tBodies[0].replaceChildren(...rows);
  $("models").hidden = false; $("loading").hidden = true; $("key-form").hidden = true;
  chooseTasks();
}

function cell(name, content, options = {}) {
  const made = Object.assign(document.createElement(name), options);
  made.append(content);
  return made;
}

function formatBytes(bytes) {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.max(1, Math.round(bytes / 1e3))} kB`;
}

function chooseTasks() {
  const asked = state.models.filter((model) => model.asked);
  const tasks = [...new Set(asked.flatMap((model) => model.tasks))];
  if (!tasks.includes(state.task)) state.task = tasks[0] || null;
  $("tasks").replaceChildren(...tasks.map((task) => {
    const tab = Object.assign(document.createElement("button"), { type: "button", textContent: WORDS[task], id: `task-${task}` });
    tab.setAttribute("role", "tab"); tab.setAttribute("aria-selected", String(task === state.task));
    tab.addEventListener("click", () => { state.task = task; chooseTasks(); });
    tab.addEventListener("keydown", (event) => moveAmongTabs(event, tasks));
    tab.tabIndex = task === state.task ? 0 : -1;
    return tab;
  }));
  showParts();
}

function moveAmongTabs(event, tasks) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  state.task = tasks[(tasks.indexOf(state.task) + step + tasks.length) % tasks.length];
  chooseTasks(); $(`task-${state.task}`).focus();
}

const able = () => state.models.filter((model) => model.asked && model.tasks.includes(state.task));

function showParts() {
  const taken = new Set(able().flatMap((model) => model.modalities));
  const matches = state.task === "classify" && able().some((model) => model.tasks.includes("embed") && taken.has("text"));
  $("image-part").hidden = !taken.has("image");
  $("audio-part").hidden = !taken.has("audio");
  $("text-part").hidden = !taken.has("text") || matches || state.task === "transcribe";
  $("labels-part").hidden = !matches;
  $("text-label").textContent = state.task === "ask" ? "Question" : "Text";
  $("ask").disabled = !able().length;
}

// What is asked

function setImage(blob) {
  state.image = blob;
  const seen = $("image-seen");
  if (seen.src) URL.revokeObjectURL(seen.src);
  if (blob) { seen.src = URL.createObjectURL(blob); seen.alt = blob.name ? `the image ${blob.name}` : "the image to ask about"; }
  seen.onload = () => seen.classList.toggle("small", seen.naturalWidth < 128);
  seen.hidden = !blob; $("image-hint").hidden = Boolean(blob); $("image-clear").hidden = !blob;
}

async function setSound(blob) {
  try { state.audio = blob ? await toWave(blob) : null; } catch { tell("This browser cannot read that sound.", true); return; }
  $("audio-seen").hidden = $("audio-played").hidden = $("audio-clear").hidden = !state.audio; $("audio-hint").hidden = Boolean(state.audio);
  if (!state.audio) return;
  $("audio-played").src = URL.createObjectURL(state.audio.file);
  drawWave($("audio-seen"), state.audio.samples);
}

function acceptFiles(files) {
  for (const file of files) {
    if (file.type.startsWith("image/")) { if (!$("image-part").hidden) setImage(file); else tell("These models take no image.", true); }
    else if (file.type.startsWith("audio/") || file.type === "video/webm") { if (!$("audio-part").hidden) setSound(file); else tell("These models take no sound.", true); }
    else tell(`${file.name} is neither an image nor a sound.`, true);
  }
}

function tell(text, bad = false) { $("said").textContent = text; $("said").classList.toggle("bad", bad); }

let recorder = null;
async function toggleRecording() {
  if (recorder) { recorder.stop(); return; }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true }), pieces = [];
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = (event) => pieces.push(event.data);
    recorder.onstop = () => {
      stream.getTracks().forEach((track) => track.stop());
      recorder = null; $("record").setAttribute("aria-pressed", "false"); $("record").textContent = "Record";
      setSound(new Blob(pieces, { type: pieces[0]?.type || "audio/webm" }));
    };
    recorder.start();
    $("record").setAttribute("aria-pressed", "true"); $("record").textContent = "Stop";
  } catch { recorder = null; tell("No microphone can be used here; choose a file.", true); }
}

function makeForm(model) {
  const form = new FormData();
  form.append("model", model.id);
  const takes = (part) => model.modalities.includes(part) && !$(`${part}-part`).hidden;
  if (state.image && takes("image")) form.append("image", state.image, "image");
  if (state.audio && takes("audio")) form.append("audio", state.audio.file, "sound.wav");
  if ($("text").value.trim() && takes("text")) form.append("text", $("text").value);
  if (!$("labels-part").hidden) $("labels").value.split("\n").map((label) => label.trim()).filter(Boolean).forEach((label) => form.append("labels", label));
  if (state.task === "classify") form.append("top", "3");
  return form;
}

async function askModel(model) {
  const times = [];
  let found = null;
  for (let round = 0; round < (["ask", "transcribe"].includes(state.task) ? 1 : ROUNDS); round += 1) {
    const begun = performance.now();
    const reply = await call(state.task, { method: "POST", body: makeForm(model) });
    if (!reply.ok) throw new Error(await readError(reply));
    found = await reply.json();
    times.push(performance.now() - begun);
  }
  return { answer: found.answers[0], milliseconds: times.sort((a, b) => a - b)[Math.floor(times.length / 2)] };
}

async function ask(event) {
  event.preventDefault();
  const models = able();
  $("ask").disabled = true; $("answers-part").hidden = false;
  const cards = models.map((model, place) => Object.assign(document.createElement("article"), { className: place ? "" : "first" }));
  $("answers").replaceChildren(...cards);
  let first = null, failed = 0;
  for (const [place, model] of models.entries()) {  // one after the other, so that they do not slow each other down
    tell(`asking ${model.id}…`);
    try {
      const found = await askModel(model);
      showAnswer(cards[place], model, found, { size: formatBytes(model.bytes), image: state.image, agreement: first && measureAgreement(state.task, first, found.answer) });
      first ??= found.answer;
    } catch (error) { failed += 1; cards[place].replaceChildren(cell("h3", model.id), cell("p", error.message, { className: "verdict bad" })); }
  }
  tell(failed ? `${failed} of ${models.length} did not answer` : "", failed > 0);
  $("ask").disabled = false;
}

// What the page does

for (const part of ["image", "audio"]) {
  const drop = $(`${part}-drop`), input = $(part);
  $(`${part}-choose`).addEventListener("click", () => input.click());
  input.addEventListener("change", () => { acceptFiles(input.files); input.value = ""; });
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over"); acceptFiles(event.dataTransfer.files); });
}
$("image-clear").addEventListener("click", () => setImage(null));
$("audio-clear").addEventListener("click", () => setSound(null));
$("record").addEventListener("click", toggleRecording);
document.addEventListener("paste", (event) => acceptFiles(event.clipboardData.files));
$("question").addEventListener("submit", ask);
$("key-form").addEventListener("submit", (event) => { event.preventDefault(); state.key = $("key").value; sessionStorage.setItem("key", state.key); readModels(); });
readModels();
