// Answers as a person reads them, and how far two models agree.
const make = (name, options = {}, ...content) => { const made = Object.assign(document.createElement(name), options); made.append(...content); return made; };
const percent = (share) => `${(100 * share).toFixed(share > 0.995 || share < 0.005 ? 2 : 1)} %`;

export function showAnswer(card, model, { answer, milliseconds }, { size, image, agreement }) {
  const facts = make("p", { className: "facts" }, make("span", {}, make("b", { textContent: `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms` })), make("span", { textContent: size }), make("span", { textContent: model.runtime }));
  const parts = [make("h3", { textContent: model.id }), facts];
  if (answer.error) parts.push(make("p", { className: "verdict bad", textContent: answer.error }));
  else if (answer.labels) parts.push(...showClasses(answer));
  else if (answer.text !== undefined) parts.push(make("p", { className: "spoken", textContent: answer.text || "(nothing)" }));
  else if (answer.embedding) parts.push(showVector(answer.embedding));
  else if (answer.boxes) parts.push(showBoxes(answer.boxes, image));
  if (agreement) parts.push(make("p", { className: `verdict ${agreement.level}`, textContent: agreement.text }));
  card.replaceChildren(...parts);
}

function showClasses({ labels, outputs }) {
  const list = (rows) => make("ol", { className: "classes" }, ...rows.map(({ label, score }) => {
    const bar = make("span", { className: "bar" });
    bar.style.width = `${100 * score}%`;
    return make("li", {}, make("span", { className: "row" }, make("span", { textContent: label }), make("span", { textContent: percent(score) })), bar);
  }));
  const further = Object.entries(outputs || {}).slice(1);
  return [list(labels), ...further.flatMap(([name, rows]) => [make("p", { className: "output", textContent: name.replaceAll("_", " ") }), list(rows.slice(0, 1))])];
}

function showVector(vector) {
  const canvas = make("canvas", { className: "vector", width: vector.length, height: 1 });
  canvas.setAttribute("role", "img"); canvas.setAttribute("aria-label", `a vector of ${vector.length} numbers`);
  const pen = canvas.getContext("2d"), most = Math.max(...vector.map(Math.abs)) || 1;
  vector.forEach((value, place) => { pen.fillStyle = value < 0 ? "#c0662a" : "#2f6f73"; pen.globalAlpha = Math.abs(value) / most; pen.fillRect(place, 0, 1, 1); });
  return make("div", {}, canvas, make("p", { className: "output", textContent: `${vector.length} numbers` }));
}

function showBoxes(boxes, image) {
  if (!boxes.length) return make("p", { textContent: "nothing found" });
  const frame = make("div", { className: "boxed" }, make("img", { src: URL.createObjectURL(image), alt: `the image, with ${boxes.length} boxes` }));
  boxes.forEach(({ label, score, box: [left, top, right, bottom] }) => {
    const mark = make("i", {}, make("span", { textContent: `${label} ${percent(score)}` }));
    Object.assign(mark.style, { left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%` });
    frame.append(mark);
  });
  return frame;
}

export function measureAgreement(task, first, other) {
  if (first.error || other.error) return null;
  if (task === "classify") {
    const same = first.labels[0].label === other.labels[0].label, apart = Math.abs(first.labels[0].score - (other.labels.find(({ label }) => label === first.labels[0].label)?.score ?? 0));
    return same ? { level: apart < 0.1 ? "good" : "careful", text: `the same answer, ${(100 * apart).toFixed(1)} points apart` } : { level: "bad", text: "another answer" };
  }
  if (task === "embed") {
    const cosine = first.embedding.reduce((sum, value, place) => sum + value * other.embedding[place], 0);
    return { level: cosine > 0.98 ? "good" : cosine > 0.9 ? "careful" : "bad", text: `cosine ${cosine.toFixed(4)}` };
  }
  if (task === "detect") {
    const same = first.boxes.length === other.boxes.length;
    return { level: same ? "good" : "careful", text: same ? "as many boxes" : `${other.boxes.length} boxes, not ${first.boxes.length}` };
  }
  const [a, b] = [first.text, other.text].map((text) => text.trim().split(/\s+/)), apart = countEdits(a, b);
  return apart ? { level: apart / a.length < 0.1 ? "careful" : "bad", text: `${apart} of ${a.length} words differ` } : { level: "good", text: "word for word the same" };
}

function countEdits(a, b) {
  let row = b.map((_, place) => place + 1);
  row.unshift(0);
  a.forEach((word, n) => {
    const next = [n + 1];
    b.forEach((other, m) => next.push(Math.min(next[m] + 1, row[m + 1] + 1, row[m] + (word === other ? 0 : 1))));
    row = next;
  });
  return row[b.length];
}
