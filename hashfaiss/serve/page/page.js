"use strict";
const $ = (id) => document.getElementById(id);
const PAGE_OF_IMAGES = 100, WAIT = 120, SVG = "http://www.w3.org/2000/svg";
const state = { info: null, code: null, id: null, browsed: 0, total: Infinity, asking: null };

// ---- asking ---------------------------------------------------------------------------------------------------------

async function ask(path, options = {}) {
  const answer = await fetch(path, options);
  if (answer.status === 401) { $("login").open || $("login").showModal(); throw new Error("This service needs its token."); }
  if (answer.status === 202) return { waiting: await answer.json() };
  if (!answer.ok) {
    const said = await answer.json().then((body) => body.error, () => answer.statusText);
    throw new Error(said || `the service answered ${answer.status}`);
  }
  return answer.json();
}

function options() {
  const found = document.querySelector("[name=mode]:checked").value === "k" ? { k: +$("k").value } : { radius: +$("radius").value };
  if ($("label").value) found.label = [$("label").value];
  if ($("under").value) found.under = [$("under").value];
  if (!$("exact").checked) found.exact = false;
  return found;
}

async function search(image) {
  state.asking?.abort();
  const asking = state.asking = new AbortController();
  const how = options();
  let request = { method: "POST", signal: asking.signal };
  let path = "search";
  if (image) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(how)) [value].flat().forEach((one) => query.append(name, one));
    path += `?${query}`;
    request = { ...request, headers: { "Content-Type": image.type || "application/octet-stream" }, body: image };
  } else {
    const what = state.code ? { code: state.code } : { id: state.id };
    request = { ...request, headers: { "Content-Type": "application/json" }, body: JSON.stringify({ ...what, ...how }) };
  }
  $("grid").setAttribute("aria-busy", "true");
  try {
    const found = await ask(path, request);
    say("");
    state.code = found.answers[0].code;
    showAnswer(found);
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
  } finally {
    if (state.asking === asking) $("grid").removeAttribute("aria-busy");
  }
}

let later;
function again() {
  $("k-shown").value = $("k").value;
  $("radius-shown").value = $("radius").value;
  const byK = document.querySelector("[name=mode]:checked").value === "k";
  $("k-part").hidden = !byK;
  $("radius-part").hidden = byK;
  clearTimeout(later);
  if (state.code || state.id !== null) later = setTimeout(() => search(), WAIT);
}

function searchFile(file) {
  if (!file) return;
  select("search");
  const most = state.info?.limits.upload_bytes;
  if (most && file.size > most) return say(`${file.name}: ${(file.size / 1e6).toFixed(1)} MB, more than the ${(most / 1e6).toFixed(0)} MB that are taken.`);
  state.code = state.id = null;
  showQuery(URL.createObjectURL(file), file.name || "the pasted image");
  history.replaceState(null, "", "#search");
  search(file);
}

function searchId(id, name) {
  select("search");
  state.id = id;
  state.code = null;
  showQuery(`thumbnail/${id}?side=320`, name || `image ${id}`);
  scrollTo({ top: 0 });
  return search();
}

// ---- showing --------------------------------------------------------------------------------------------------------

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function say(text) { $("said").textContent = text; }

function showQuery(source, name) {
  const image = $("query-image");
  if (image.src.startsWith("blob:") && image.src !== source) URL.revokeObjectURL(image.src);
  image.src = source;
  image.alt = `Asked with: ${name}`;
  image.hidden = $("query-name").hidden = $("clear").hidden = false;
  $("query-name").textContent = name;
  $("invitation").hidden = true;
  $("asking").classList.add("asked");
}

function clearQuery() {
  state.asking?.abort();
  state.code = state.id = null;
  $("query-image").removeAttribute("src");
  $("query-image").hidden = $("query-name").hidden = $("clear").hidden = $("code").hidden = true;
  $("invitation").hidden = false;
  $("asking").classList.remove("asked");
  history.replaceState(null, "", "#search");
  say("");
  browse();
}

function bitsOf(code) {
  const found = [];
  for (let byte = 0; byte < code.length / 2; byte++) {
    const value = parseInt(code.slice(2 * byte, 2 * byte + 2), 16);
    for (let bit = 0; bit < 8; bit++) found.push((value >> bit) & 1);
  }
  return found.slice(0, state.info.bits);
}

function strip(code, other, across) {
  const bits = bitsOf(code), others = other ? bitsOf(other) : bits;
  const differ = bits.map((bit, at) => (bit === others[at] ? -1 : at)).filter((at) => at >= 0);
  across = Math.min(across, bits.length);
  const drawn = { on: "", off: "", differs: "" };
  bits.forEach((bit, at) => {
    const [x, y] = [(at % across) * 10, Math.floor(at / across) * 22];
    const kind = bit !== others[at] ? "differs" : bit ? "on" : "off";
    drawn[kind] += `M${x + 1} ${y + (bit ? 0 : 12)}h8v${bit ? 20 : 8}h-8z`;
  });
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "bits");
  svg.setAttribute("viewBox", `0 0 ${across * 10} ${Math.ceil(bits.length / across) * 22 - 2}`);
  svg.setAttribute("role", "img");
  const told = differ.length > 12 ? `${differ.length} bits` : `bit${differ.length > 1 ? "s" : ""} ${differ.join(", ")}`;
  svg.setAttribute("aria-label", other ? (differ.length ? `differs in ${told}` : "the same code") : `code of ${bits.length} bits`);
  for (const [kind, d] of Object.entries(drawn)) {
    if (!d) continue;
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", kind);
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

function nameOf(hit) {
  const parts = (hit.path ?? `image ${hit.id}`).split(/[/\\]/);
  return [parts.pop(), parts.slice(-2).join("/")];
}

function tile(hit, asked) {
  const [name, folder] = nameOf(hit);
  const picture = make("img", { loading: "lazy", decoding: "async", alt: "", src: `thumbnail/${hit.id}?side=320` });
  picture.onerror = () => picture.replaceWith(make("span", { className: "gone", textContent: "cannot be shown now" }));
  const button = make("button", { type: "button" }, make("div", { className: "frame" }, picture));
  const told = asked ? `, distance ${hit.distance}` : "";
  button.setAttribute("aria-label", `Search with ${name}${told}${hit.labels.length ? `, ${hit.labels.join(", ")}` : ""}`);
  button.onclick = () => searchId(hit.id, name);
  const item = make("li", { className: "tile" }, button);
  if (asked) {
    item.append(make("span", { className: "badge", textContent: hit.distance, title: `${hit.distance} bits differ` }));
    item.append(strip(hit.code, asked, 64));
  }
  const words = make("p", { className: "path" }, make("b", { textContent: name }));
  const about = [folder, hit.labels.filter((label) => !folder.endsWith(label)).join(", ")].filter(Boolean).join(" · ");
  words.append(make("span", { textContent: about }), about ? " · " : "", make("a", { href: `image/${hit.id}`, target: "_blank", rel: "noopener", textContent: "open", ariaLabel: `Open ${name}` }));
  item.append(words);
  return item;
}

function showAnswer(found) {
  const answer = found.answers[0], asked = options();
  $("code").hidden = $("legend").hidden = false;
  $("code-bits").textContent = found.bits;
  $("code-strip").replaceChildren(strip(answer.code, null, 32));
  $("grid").replaceChildren(...answer.hits.map((hit) => tile(hit, answer.code)));
  const count = answer.hits.length + answer.more;
  const what = asked.k ? `The ${count.toLocaleString()} nearest` : `${count.toLocaleString()} within ${asked.radius} bits`;
  $("results").textContent = `${what}, ${answer.exact ? "exact" : "not proven exact"}`;
  $("more").textContent = answer.more ? `${answer.more.toLocaleString()} more are not shown.` : "";
  if (state.id !== null) history.replaceState(null, "", `#id=${state.id}`);
}

async function browse() {
  state.browsed = 0;
  state.total = Infinity;
  $("grid").replaceChildren();
  $("results").textContent = "All images";
  $("legend").hidden = true;
  await browseOn();
}

let browsing = false;
async function browseOn() {
  if (browsing || state.code || state.id !== null || state.browsed >= state.total) return;
  browsing = true;
  try {
    const found = await ask(`images?first=${state.browsed}&most=${PAGE_OF_IMAGES}`);
    if (state.code || state.id !== null) return;
    state.total = found.total;
    state.browsed += found.images.length;
    $("grid").append(...found.images.map((hit) => tile(hit)));
    $("more").textContent = state.browsed < state.total ? `${state.browsed.toLocaleString()} of ${state.total.toLocaleString()} images` : "";
  } catch (error) {
    say(error.message);
  } finally {
    browsing = false;
  }
}

// ---- duplicates -----------------------------------------------------------------------------------------------------

const pause = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));
const ticks = () => [...document.querySelectorAll("#groups input")];

let nearing = 0;
async function near() {
  const mine = ++nearing, radius = $("near").value, bar = $("near-progress");
  bar.hidden = false;
  bar.removeAttribute("value");
  try {
    for (;;) {
      const found = await ask(`duplicates?radius=${radius}`);
      if (mine !== nearing) return;
      if (!found.waiting) { say(""); return showGroups(found, radius); }
      if (found.waiting.of) { bar.max = found.waiting.of; bar.value = found.waiting.done; }
      await pause(0.5);
    }
  } catch (error) {
    say(error.message);
  } finally {
    if (mine === nearing) bar.hidden = true;
  }
}

function showGroups(found, radius) {
  const groups = found.groups.map((group, number) => {
    const tiles = group.hits.map((hit, place) => {
      const item = tile(hit);
      const [name] = nameOf(hit);
      item.append(make("span", { className: "badge", textContent: place ? hit.distance : "first" }));
      const box = make("input", { type: "checkbox", value: hit.path ?? "", disabled: !listable(hit.path) });
      if (box.disabled) box.title = "Its path cannot stand in a list.";
      box.dataset.place = place;
      box.onchange = counted;
      item.append(make("label", { className: "keep" }, box, "can go"));
      box.setAttribute("aria-label", `${name} can go`);
      return item;
    });
    const more = group.images > group.hits.length ? ` (the first ${group.hits.length})` : "";
    return make("section", { className: "group" }, make("h3", { textContent: `Group ${number + 1}: ${group.images} images${more}` }), make("ul", { className: "grid" }, ...tiles));
  });
  $("groups").replaceChildren(...groups);
  const many = found.groups.length + found.more_groups;
  const limits = found.more_groups ? `; the first ${found.groups.length} are shown` : "";
  $("near-about").textContent = many
    ? `${many.toLocaleString()} group${many > 1 ? "s" : ""} of images within ${radius} bits${limits}. Tick what you can do without, and take the list with you: nothing is deleted here.`
    : `No two images have codes within ${radius} bits.`;
  $("ticking").hidden = !many;
  counted();
}

function counted() {
  const many = ticks().filter((box) => box.checked).length;
  $("ticked").textContent = `${many} ticked`;
  $("copy").disabled = $("download").disabled = !many;
}

function tick(which) {
  for (const box of ticks()) box.checked = !box.disabled && which(box);
  counted();
}

// a list of lines, read as UTF-8, can hold no others: such a path would name other files there
const listable = (path) => path !== null && !/[\r\n]/.test(path) && !/\p{Surrogate}/u.test(path);
const listed = () => ticks().filter((box) => box.checked).map((box) => box.value + "\n").join("");

async function copy() {
  try {
    await navigator.clipboard.writeText(listed());
    $("ticked").textContent = "copied";
  } catch {
    download();
  }
}

function download() {
  const link = make("a", { href: URL.createObjectURL(new Blob([listed()], { type: "text/plain" })), download: "can-go.txt" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ---- the page -------------------------------------------------------------------------------------------------------

const VIEWS = ["search", "near", "facts"];
function select(name, focus) {
  for (const view of VIEWS) {
    const chosen = view === name;
    $(`view-${view}`).hidden = !chosen;
    $(`tab-${view}`).setAttribute("aria-selected", chosen);
    $(`tab-${view}`).tabIndex = chosen ? 0 : -1;
    if (chosen && focus) $(`tab-${view}`).focus();
  }
}

function moveInGrid(event) {
  const tiles = [...event.currentTarget.querySelectorAll(".tile > button")];
  const at = tiles.indexOf(document.activeElement);
  if (at < 0) return;
  const row = tiles.filter((one) => one.offsetParent && one.getBoundingClientRect().top === tiles[0].getBoundingClientRect().top).length || 1;
  const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row }[event.key];
  if (!by) return;
  event.preventDefault();
  tiles[Math.max(0, Math.min(tiles.length - 1, at + by))].focus();
}

function showInfo(info) {
  state.info = info;
  document.title = `${info.folder} - hashfaiss`;
  $("summary").textContent = `${info.folder}: ${info.images.toLocaleString()} images, ${info.bits} bits, ${info.method}`;
  $("radius").max = info.bits;
  $("near").max = Math.min(16, info.bits);
  $("k").max = Math.max(1, Math.min(200, info.images, info.limits.k));
  $("label-part").hidden = !info.label_names.length;
  $("labels").replaceChildren(...info.label_names.slice(0, 1000).map((value) => make("option", { value })));
  const shown = { ...info, label_names: info.label_names.slice(0, 50).join(", ") };
  delete shown.limits;
  const rows = Object.entries(shown).filter(([, value]) => value !== "" && value !== null);
  $("facts").replaceChildren(...rows.flatMap(([name, value]) => [
    make("dt", { textContent: name.replaceAll("_", " ") }),
    make("dd", { textContent: typeof value === "object" ? JSON.stringify(value) : typeof value === "number" ? value.toLocaleString() : value }),
  ]));
}

async function start() {
  try {
    showInfo(await ask("info"));
    const asked = /^#id=(\d+)$/.exec(location.hash);
    if (asked) await searchId(+asked[1]); else await browse();
  } catch (error) {
    say(error.message);
  }
}

async function login(event) {
  event.preventDefault();
  const answer = await fetch("login", { method: "POST", body: $("token").value });
  if (answer.status !== 204) { $("login-said").textContent = "That is not the token of this service."; return; }
  $("login").close();
  say("");
  start();
}

$("asking").addEventListener("input", (event) => event.target.type !== "file" && again());
$("asking").addEventListener("submit", (event) => event.preventDefault());
$("file").addEventListener("change", (event) => { searchFile(event.target.files[0]); event.target.value = ""; });
$("clear").addEventListener("click", clearQuery);
$("nearing").addEventListener("submit", (event) => { event.preventDefault(); near(); });
$("near").addEventListener("input", () => { $("near-shown").value = $("near").value; });
$("tick-all").addEventListener("click", () => tick((box) => box.dataset.place !== "0"));
$("tick-none").addEventListener("click", () => tick(() => false));
$("copy").addEventListener("click", copy);
$("download").addEventListener("click", download);
$("login-form").addEventListener("submit", login);
$("grid").addEventListener("keydown", moveInGrid);
VIEWS.forEach((view, place) => {
  $(`tab-${view}`).addEventListener("click", () => select(view));
  $(`tab-${view}`).addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by) select(VIEWS[(place + by + VIEWS.length) % VIEWS.length], true);
  });
});
addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) { event.preventDefault(); searchFile(file); }
});
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dragging"); });
addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dragging"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  searchFile(event.dataTransfer.files[0]);
});
$("options").open = matchMedia("(min-width: 50rem)").matches;
new IntersectionObserver((seen) => seen[0].isIntersecting && browseOn(), { rootMargin: "1500px" }).observe($("more"));
start();
