// The reader: any node or head of a recorded network, in the page alone. Classic and deferred, because modules and
// fetch() do not work from files. It computes what snp_lib.performance computes, on the numbers that
// snp_lib.interactive.reader packed; tests/interactive hold that.
(() => {
"use strict";

// numbers

const HALVES = Float32Array.from({ length: 65536 }, (_, bits) => {
  const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
});

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

/** Base64 of little-endian half-precision numbers → Float32Array. */
function decode(text) {
  const b = bytes(text);
  return Float32Array.from({ length: b.length / 2 }, (_, k) => HALVES[b[2 * k] | (b[2 * k + 1] << 8)]);
}

/** Class means and readout weights of a site, unit by unit; `order` permutes the outputs of every unit. */
class Site {
  constructor(labels, heads, packed, orders) {
    Object.assign(this, { labels, heads, w: decode(packed.w), m: decode(packed.m) });
    this.nodes = this.w.length / labels;
    this.orders = orders && { node: bytes(orders.node), head: orders.head && bytes(orders.head) };
  }
  count(unit) {
    return unit === "head" ? this.heads : this.nodes;
  }
  /** Performance matrix of a unit, label × output, as snp_lib.interactive.reader.matrices gives it. */
  matrix(unit, number) {
    const { labels: K, w, m } = this, parts = this.nodes / this.count(unit);
    const sums = parts > 1 ? new Float64Array(K * K) : new Float32Array(K * K); // a node's products are exact in single precision
    for (let p = number * parts; p < (number + 1) * parts; p++)
      for (let i = 0, k = 0; i < K; i++) {
        const mean = m[p * K + i];
        for (let j = 0; j < K; j++) sums[k++] += mean * w[p * K + j];
      }
    const values = new Float32Array(sums);
    if (!this.orders) return values;
    const order = this.orders[unit];
    return values.map((_, k) => values[k - (k % K) + order[number * K + (k % K)]]);
  }
}

/** The n-th largest value (from 1), by Hoare's selection. */
function nthLargest(values, n) {
  const a = values.slice(), k = a.length - n;
  for (let low = 0, high = a.length - 1; low < high; ) {
    const pivot = a[(low + high) >> 1];
    let i = low, j = high;
    while (i <= j) {
      while (a[i] < pivot) i++;
      while (a[j] > pivot) j--;
      if (i <= j) {
        const held = a[i];
        a[i++] = a[j];
        a[j--] = held;
      }
    }
    if (k <= j) high = j;
    else if (k >= i) low = i;
    else break;
  }
  return a[k];
}

/** Elements above θ times the largest (cut.theta), or so many of the largest (cut.ones); none of a silent unit. */
function binarize(values, cut) {
  const binary = new Uint8Array(values.length);
  let largest = -Infinity;
  for (let k = 0; k < values.length; k++) if (values[k] > largest) largest = values[k];
  if (!(largest > 0)) return binary;
  if ("theta" in cut) {
    const theta = Math.fround(cut.theta); // a double quotient rounded once more is the quotient of single precision
    for (let k = 0; k < values.length; k++) binary[k] = Math.fround(values[k] / largest) > theta ? 1 : 0;
    return binary;
  }
  const ones = Math.min(cut.ones, values.length), least = nthLargest(values, ones);
  let equal = ones;
  for (let k = 0; k < values.length; k++) if (values[k] > least) equal -= binary[k] = 1;
  for (let k = 0; k < values.length && equal; k++) if (values[k] === least) equal -= binary[k] = 1; // ties in reading order
  return binary;
}

/** First fit in ascending order: a label joins the first cluster whose members all agree with it. */
function findClusters(binary, K) {
  const clusters = [];
  for (let label = 0; label < K; label++) {
    if (!binary[label * K + label]) continue;
    const fits = (cluster) => cluster.every((other) => binary[label * K + other] && binary[other * K + label]);
    (clusters.find(fits) || clusters[clusters.push([]) - 1]).push(label);
  }
  return clusters;
}

function look(values, K, cut) {
  const binary = binarize(values, cut), clusters = findClusters(binary, K);
  let ones = 0, labels = 0, squares = 0;
  for (let k = 0; k < binary.length; k++) ones += binary[k];
  for (const cluster of clusters) {
    labels += cluster.length;
    squares += cluster.length ** 2;
  }
  return { binary, clusters, ones, labels, noise: ones - squares };
}

/** What all units of a site recognise, with the averages of snp_lib.performance.Summary. */
function summarize(site, unit, cut) {
  const K = site.labels, units = [];
  let labels = 0, clusters = 0, noise = 0, ones = 0, inside = 0;
  for (let number = 0; number < site.count(unit); number++) {
    const seen = look(site.matrix(unit, number), K, cut);
    delete seen.binary;
    units.push(seen);
    labels += seen.labels;
    clusters += seen.clusters.length;
    noise += seen.noise;
    ones += seen.ones;
    for (const cluster of seen.clusters) inside += cluster.length * (cluster.length - 1);
  }
  const pairs = K * (K - 1), signal = labels / K, noises = inside / pairs + noise / pairs, n = units.length;
  const snr = noises ? signal / noises : signal ? Infinity : NaN;
  const cluster_size = clusters ? labels / clusters : NaN;
  return { units, labels: labels / n, clusters: clusters / n, cluster_size, noise: noise / n, ones: ones / n, snr };
}

// data

const files = new Map(), waiting = new Map(), sites = new Map();
const base = new URL("reader/", document.currentScript.src || document.baseURI);

/** What the file of this name put, fetched once as a script, which works from files too. */
function load(name, version = "") {
  const fetched = (resolve, reject) => {
    const src = new URL(`${name}.js?${version}`, base), script = document.createElement("script");
    document.head.append(Object.assign(script, { src, onload: () => resolve(files.get(name)), onerror: reject }));
  };
  if (!waiting.has(name)) waiting.set(name, new Promise(fetched));
  return waiting.get(name);
}

async function siteOf(run, name, state) {
  const key = `${run}/${name}/${state}`;
  if (!sites.has(key)) {
    const about = await load(`${run}/index`), shuffled = state === "shuffled";
    const packed = await load(`${run}/${name}.${shuffled ? "trained" : state}`, about.record);
    const orders = shuffled ? await load(`${run}/${name}.shuffled`, about.record) : undefined;
    sites.set(key, new Site(about.names.length, about.sites[name].kind === "mha" ? about.heads : 0, packed, orders));
  }
  return sites.get(key);
}

// words

const FIRST = { node: 0, head: 1 }; // the number of the first one, as figures and tables count
const STATES = { trained: "trained", untrained: "untrained", shuffled: "outputs shuffled" };
const COLUMNS = { labels: "labels", clusters: "clusters", cluster_size: "labels per cluster", noise: "noise", ones: "ones", snr: "SNR" };
const CHIPS = 48; // labels named

const count = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
const short = (x) => (isFinite(x) ? x.toLocaleString("en", { maximumSignificantDigits: 3 }) : "–");
const escaped = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const cutText = (cut) => ("theta" in cut ? `θ = ${cut.theta}` : count(cut.ones, "one"));

const named = ({ unit, number }) => `${unit} ${number + FIRST[unit]}`;

/** The sentence under the pictures, which Python's explorer says too. */
function sentence(view, seen) {
  const state = view.state === "trained" ? "" : `, ${STATES[view.state]}`;
  return `${view.site}, ${named(view)}, ${cutText(view.cut)}${state}: ${count(seen.labels, "label")} in ${count(seen.clusters.length, "cluster")}, ${count(seen.noise, "one")} of noise.`;
}

const address = ({ run, site, unit, number, cut, sorted, state }) =>
  [run, site, unit === "head" ? `h${number + 1}` : number, "theta" in cut ? cut.theta : `n${cut.ones}`, sorted ? "c" : "g"]
    .concat(state === "trained" ? [] : [state])
    .join("/");

/** An address to a view, or null where it is none. */
function parse(text) {
  const found = /^([\w-]+)\/([\w.]+)\/(h?)(\d+)\/(?:n(\d+)|(0?\.\d+))\/([cg])(?:\/(\w+))?$/.exec(text);
  if (!found) return null;
  const [, run, site, head, number, ones, theta, order, state = "trained"] = found;
  const cut = ones ? { ones: Math.max(1, +ones) } : { theta: +theta };
  if (!(state in STATES) || (head && +number < 1)) return null;
  return { run, site, unit: head ? "head" : "node", number: head ? number - 1 : +number, cut, sorted: order === "c", state };
}

// page

let serial = 0;
const radios = (name, legend, choices) =>
  `<fieldset class="snp-${name}"><legend>${legend}</legend>${Object.entries(choices)
    .map(([value, text]) => `<label><input type="radio" name="${name}${serial}" data-field="${name}" value="${value}"><span>${text}</span></label>`)
    .join("")}</fieldset>`;
const slider = (name, attributes) => `<label class="snp-slider snp-${name}"><b></b><input type="range" data-field="${name}" ${attributes}></label>`;

const page = () => `
<div class="snp-controls snp-where">
<label class="snp-run snp-full"><span>network</span><select data-field="run"></select></label>
${radios("unit", "show", { node: "nodes", head: "heads" })}
${radios("state", "network is", STATES)}
<label class="snp-kind snp-full"><span>site</span><select data-field="kind"></select></label>
${slider("block", "min=1 step=1")}
${radios("mode", "keep", { theta: "what exceeds θ", ones: "the n largest" })}
</div>
<div class="snp-controls">
${slider("number", "step=1")}
<div class="snp-picks">pick ${Object.entries({ 0.1: "few labels", 0.5: "typical", 0.9: "many", any: "any" })
  .map(([pick, text]) => `<button data-pick="${pick}">${text}</button>`)
  .join("")}</div>
${slider("theta", "min=0.05 max=0.95 step=0.01")}
${slider("ones", "min=0 max=100 step=1")}
<label><input type="checkbox" data-field="sorted"> clusters onto the diagonal</label>
</div>
<div class="snp-pictures">
<figure class="snp-measured"><div class="snp-canvas"><canvas role="img"></canvas></div><figcaption>measured: <b class="snp-plus">more</b> or <b class="snp-minus">less</b> of an output (→) for a true label (↓)</figcaption></figure>
<figure><div class="snp-canvas"><canvas role="img"></canvas></div><figcaption><b class="snp-in">■</b> in a cluster <b class="snp-out">■</b> noise · true label ↓, output →</figcaption></figure>
<div class="snp-words"><p class="snp-said" aria-live="polite"></p><p class="snp-cell" aria-hidden="true">Point at a cell or at labels.</p><div class="snp-chips"></div></div>
</div>
<div class="snp-table snp-full"><table><thead><tr><th></th>${Object.values(COLUMNS).map((text) => `<th scope="col">${text}</th>`).join("")}</tr></thead><tbody></tbody></table></div>
<div class="snp-along snp-full" aria-hidden="true"></div>
<div class="snp-search snp-full"><label>which units of this site know <input type="search" list="snp-names${serial}" placeholder="a label"></label><datalist id="snp-names${serial}"></datalist><span class="snp-hits"></span></div>
<div class="snp-tools"><button data-tool="link">copy link</button><button data-tool="png">PNG</button><button data-tool="csv" class="snp-full">CSV</button><span role="status"></span></div>`;

class Reader extends HTMLElement {
  connectedCallback() {
    if (this.view) return;
    const get = (name, fallback) => this.getAttribute(name) || fallback;
    this.view = parse(`${get("run")}/${get("site")}/${get("unit", "0")}/${get("theta", "0.3")}/c`);
    this.reduced = this.hasAttribute("reduced");
    this.runs = get("runs", this.getAttribute("run")).split(" ");
    const linked = this.linked();
    this.open(linked || this.view, linked).catch(() => {}); // the picture inside stays
    addEventListener("hashchange", () => this.$ && this.linked() && this.show(this.linked()));
  }

  /** The view that the address of the page asks for, if it asks the first reader of the page for one that it has. */
  linked() {
    const view = document.querySelector("snp-reader") === this && /^#reader=/.test(location.hash) && parse(decodeURIComponent(location.hash.slice(8)));
    return view && this.runs.includes(view.run) && view;
  }

  async open(view, scroll) {
    const abouts = await Promise.all(this.runs.map((run) => load(`${run}/index`)));
    await siteOf(this.view.run, this.view.site, "trained");
    this.build(abouts);
    await this.show(view);
    if (scroll) this.scrollIntoView();
    new MutationObserver(() => this.paint()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    new ResizeObserver(() => this.clientWidth !== this.drawn && this.paint()).observe(this);
  }

  build(abouts) {
    serial++;
    this.innerHTML = page();
    this.$ = (selector) => this.querySelector(selector);
    this.field = (name) => this.$(`[data-field="${name}"]`);
    [this.left, this.right] = this.querySelectorAll("canvas");
    this.field("run").innerHTML = this.runs.map((run, i) => `<option value="${run}">${escaped(abouts[i].title)}</option>`).join("");
    this.$(".snp-run").hidden = this.runs.length < 2;
    this.addEventListener("input", (event) => event.target.dataset.field && this.change(event.target));
    this.addEventListener("click", (event) => {
      const { pick, tool, go } = event.target.dataset;
      if (pick) this.pick(pick);
      if (tool) this[tool](event.target);
      if (go) this.show({ ...this.view, ...JSON.parse(go) }, true);
    });
    this.$(".snp-search input").addEventListener("input", () => this.search());
    for (const canvas of [this.left, this.right]) {
      canvas.addEventListener("pointermove", (event) => this.point(canvas, event));
      canvas.addEventListener("pointerleave", () => this.querySelectorAll(".snp-cross").forEach((line) => line.remove()));
    }
    const chips = this.$(".snp-chips");
    for (const [event, on] of [["pointerover", 1], ["focusin", 1], ["pointerout", 0], ["focusout", 0]])
      chips.addEventListener(event, ({ target }) => this.light(on ? target.closest("[data-cluster]")?.dataset.cluster : undefined));
  }

  /** A control moved: the view that it asks for. */
  change({ dataset: { field }, value, checked }) {
    const view = { ...this.view }, { sites: all } = this.about, here = all[view.site];
    if (field === "run") Object.assign(view, { run: value, number: 0, state: "trained" });
    if (field === "state") view.state = value;
    if (field === "sorted") view.sorted = checked;
    if (field === "number") view.number = value - FIRST[view.unit];
    if (field === "theta") view.cut = { theta: +value };
    if (field === "ones") view.cut = { ones: Math.round(10 * 400 ** (value / 100)) };
    if (field === "mode") view.cut = value === "theta" ? { theta: 0.3 } : { ones: 100 };
    if (field === "unit") Object.assign(view, { unit: value, number: 0 });
    const block = field === "block" ? +value : here.block, kind = view.unit === "head" ? "mha" : field === "kind" ? value : here.kind;
    if (field !== "run") view.site = Object.keys(all).find((name) => all[name].block === block && all[name].kind === kind) || view.site;
    this.show(view, true);
  }

  async show(view, moved) {
    const turn = (this.turn = (this.turn || 0) + 1), before = this.view;
    const about = await load(`${view.run}/index`);
    if (!(view.site in about.sites)) view.site = Object.keys(about.sites).findLast((name) => name.split(".")[1] === view.site.split(".")[1]) || Object.keys(about.sites)[0];
    if (!about.states.includes(view.state)) view.state = "trained";
    const site = await siteOf(view.run, view.site, view.state);
    if (turn !== this.turn) return; // a later move overtook this one
    if (!site.count(view.unit)) view.unit = "node";
    view.number = Math.min(view.number, site.count(view.unit) - 1);
    const same = this.values && ["run", "site", "unit", "number"].every((name) => view[name] === before[name]);
    Object.assign(this, { about, site, view, values: site.matrix(view.unit, view.number), lit: undefined });
    this.seen = look(this.values, site.labels, view.cut);
    this.fill();
    this.arrange(same || !this.place);
    this.numbers(turn);
    if (this.$(".snp-search input").value) this.search();
    if (moved) {
      clearTimeout(this.writing);
      this.writing = setTimeout(() => history.replaceState(null, "", `#reader=${address(this.view)}`), 250);
    }
  }

  /** Controls and words of what is shown. */
  fill() {
    const { view, about, site, seen } = this, { sites: all, names } = about, here = all[view.site];
    const set = (name, value, text, max) => {
      const input = this.field(name);
      if (max !== undefined) input.max = max;
      input.value = value;
      input.parentElement.querySelector("b").textContent = text;
    };
    for (const input of this.querySelectorAll("input[type=radio]")) {
      const { field } = input.dataset;
      input.checked = (field === "mode" ? ("theta" in view.cut ? "theta" : "ones") : view[field]) === input.value;
      if (field === "state") input.closest("label").hidden = !about.states.includes(input.value);
    }
    this.field("run").value = view.run;
    const options = (kind) => `<option value="${kind}">${escaped(about.kinds[kind])}</option>`;
    this.field("kind").innerHTML = Object.keys(about.kinds).filter((kind) => view.unit === "node" || kind === "mha").map(options).join("");
    this.field("kind").value = here.kind;
    this.field("sorted").checked = view.sorted;
    set("block", here.block, `encoder ${here.block}`, Math.max(...Object.values(all).map(({ block }) => block)));
    this.field("number").min = FIRST[view.unit];
    set("number", view.number + FIRST[view.unit], named(view), site.count(view.unit) - 1 + FIRST[view.unit]);
    const byOnes = "ones" in view.cut;
    this.$(".snp-theta").hidden = byOnes;
    this.$(".snp-ones").hidden = !byOnes;
    this.$(".snp-picks").hidden = view.unit === "head";
    if (byOnes) set("ones", Math.round((100 * Math.log(view.cut.ones / 10)) / Math.log(400)), `n = ${view.cut.ones} ones`);
    else set("theta", view.cut.theta, `θ = ${view.cut.theta.toFixed(2)}`);
    const said = (this.$(".snp-said").textContent = sentence(view, seen));
    for (const canvas of [this.left, this.right]) canvas.setAttribute("aria-label", `Matrix of ${said}`);
    const largest = seen.clusters.map((cluster, c) => [cluster, c]).sort((a, b) => b[0].length - a[0].length);
    let shown = 0;
    const chips = largest.filter(([cluster], i) => (shown += cluster.length) <= CHIPS || !i);
    const left = seen.labels - chips.reduce((sum, [cluster]) => sum + cluster.length, 0);
    this.$(".snp-chips").innerHTML =
      chips.map(([cluster, c]) => `<span tabindex="0" data-cluster="${c}">${cluster.map((l) => escaped(names[l])).join(" + ")}</span>`).join("") +
      (left ? `<i>and ${count(left, "label")} more</i>` : seen.labels ? "" : "<i>nothing</i>");
    if (this.named !== about) this.$("datalist").innerHTML = names.map((name) => `<option value="${escaped(name)}">`).join("");
    this.named = about;
  }

  /** Where every label stands, now or by and by. */
  arrange(smooth) {
    const K = this.site.labels, clustered = this.seen.clusters.flat(), at = new Float64Array(K);
    const labels = [...at.keys()], rest = labels.filter((label) => !clustered.includes(label));
    (this.view.sorted ? [...clustered, ...rest] : labels).forEach((label, k) => (at[label] = k));
    const from = this.place?.length === K ? this.place : Float64Array.from(labels), start = performance.now();
    cancelAnimationFrame(this.frame);
    smooth &&= !matchMedia("(prefers-reduced-motion: reduce)").matches && from.some((x, label) => x !== at[label]);
    const step = (now) => {
      const t = smooth ? Math.min(1, Math.max(0, now - start) / 400) : 1, eased = t * t * (3 - 2 * t);
      this.place = at.map((to, label) => from[label] + eased * (to - from[label]));
      this.moving = t < 1;
      this.paint();
      if (t < 1) this.frame = requestAnimationFrame(step);
    };
    step(start);
  }

  /** Both matrices. */
  paint() {
    const { values, place, seen } = this, K = this.site.labels, style = getComputedStyle(this);
    const color = (name) => style.getPropertyValue(`--snp-${name}`).trim(), cluster = new Int16Array(K).fill(-1);
    seen.clusters.forEach((labels, c) => labels.forEach((label) => (cluster[label] = c)));
    let largest = 0;
    for (const v of values) largest = Math.max(largest, Math.abs(v));
    this.drawn = this.clientWidth;
    const prepared = (canvas) => {
      const ratio = devicePixelRatio || 1, box = canvas.parentElement.parentElement.clientWidth;
      const width = Math.min(box - 2, 420), side = Math.ceil((width * ratio) / K);
      canvas.width = canvas.height = side * K; // which clears it
      canvas.style.width = `${width}px`;
      const pen = canvas.getContext("2d");
      return [pen, side, (i, j) => pen.fillRect(Math.round(place[j] * side), Math.round(place[i] * side), side, side)];
    };
    if (this.left.offsetParent) {
      const [pen, , dot] = prepared(this.left);
      for (const sign of [1, -1]) {
        pen.fillStyle = color(sign > 0 ? "plus" : "minus");
        for (let k = 0; k < values.length; k++) {
          const share = (sign * values[k]) / largest;
          if (share < 0.02) continue;
          pen.globalAlpha = share;
          dot((k / K) | 0, k % K);
        }
      }
    }
    const [pen, side, dot] = prepared(this.right), lit = this.lit === undefined ? -1 : +this.lit;
    for (const inside of [false, true]) {
      pen.fillStyle = color(inside ? "in" : "out");
      for (let k = 0; k < values.length; k++) {
        const i = (k / K) | 0, j = k % K, within = cluster[i] >= 0 && cluster[i] === cluster[j];
        if (!seen.binary[k] || within !== inside) continue;
        pen.globalAlpha = lit >= 0 && !(within && cluster[i] === lit) ? 0.25 : 1;
        dot(i, j);
      }
    }
    pen.globalAlpha = 1;
    if (!this.view.sorted || this.moving) return;
    pen.strokeStyle = color("frame");
    pen.lineWidth = Math.max(1, side / 3);
    for (const labels of seen.clusters) pen.strokeRect(place[labels[0]] * side, place[labels[0]] * side, labels.length * side, labels.length * side);
  }

  light(cluster) {
    if (cluster === this.lit) return;
    this.lit = cluster;
    this.paint();
  }

  /** The cell under the pointer, in words, with lines through it. */
  point(canvas, event) {
    const box = canvas.getBoundingClientRect(), K = this.site.labels, scale = K / box.width;
    const [x, y] = [event.clientX - box.left, event.clientY - box.top].map((v) => Math.min(K - 1, Math.max(0, Math.floor(v * scale))));
    const [i, j] = [y, x].map((p) => this.place.findIndex((at) => Math.round(at) === p));
    if (i < 0 || j < 0) return;
    const { names } = this.about, largest = this.values.reduce((a, b) => Math.max(a, b), 0);
    const share = largest ? (this.values[i * K + j] / largest).toFixed(2) : "0";
    this.$(".snp-cell").textContent = `true: ${names[i]} → output: ${names[j]}, ${share} of the largest`;
    for (const [direction, at] of [["x", x], ["y", y]])
      for (const each of [this.left, this.right]) {
        const name = `snp-cross snp-${direction}`, holder = each.parentElement;
        const line = [...holder.children].find((child) => child.className === name) || holder.appendChild(document.createElement("i"));
        line.className = name;
        line.style[direction === "x" ? "left" : "top"] = `${(at + 0.5) / scale}px`;
      }
  }

  summary(site) {
    const key = `${this.view.unit}/${cutText(this.view.cut)}`;
    if (site.kept?.key !== key) site.kept = { key, summary: summarize(site, this.view.unit, this.view.cut) };
    return site.kept.summary;
  }

  /** Averages of the site, then of the others of its kind, one at a time so that the page stays awake. */
  async numbers(turn) {
    if (this.reduced) return;
    const { view, seen, site } = this;
    const later = () => new Promise((resolve) => setTimeout(resolve, 20));
    await later();
    if (turn !== this.turn) return;
    const all = this.summary(site);
    const own = { ...seen, clusters: seen.clusters.length, cluster_size: seen.labels / seen.clusters.length };
    const row = (name, values) => `<tr><th scope="row">${name}</th>${Object.keys(COLUMNS).map((key) => `<td>${key in values ? short(values[key]) : ""}</td>`).join("")}</tr>`;
    this.$("tbody").innerHTML = row(`this ${view.unit}`, own) + row(`mean of ${count(site.count(view.unit), view.unit)}`, all);
    for (const name of this.alike()) {
      const other = await siteOf(view.run, name, view.state).catch(() => null);
      if (turn !== this.turn) return;
      for (const each of [other, sites.get(`${view.run}/${name}/trained`)]) if (each) this.summary(each);
      await later();
      if (turn !== this.turn) return;
    }
    this.along();
  }

  /** Sites of the kind shown, encoder by encoder. */
  alike() {
    const { sites: all } = this.about;
    return Object.keys(all).filter((name) => all[name].kind === all[this.view.site].kind);
  }

  /** Four curves along the encoders; the trained network stays as a dotted line beside a control. */
  along() {
    const { view, about } = this, names = this.alike(), blocks = names.map((name) => about.sites[name].block);
    const line = (key, state) => names.map((name) => sites.get(`${view.run}/${name}/${state}`)?.kept?.summary[key]);
    this.$(".snp-along").innerHTML = ["labels", "cluster_size", "noise", "snr"]
      .map((key) => {
        const shown = { [view.state]: line(key, view.state), trained: line(key, "trained") };
        const top = Math.max(...Object.values(shown).flat().filter(isFinite)) || 1;
        const x = (k) => 34 + (k * 138) / Math.max(1, blocks.length - 1), y = (v) => 84 - (74 * v) / top;
        const curve = ([state, values]) => {
          const drawn = values.map((v, k) => [v, k]).filter(([v]) => isFinite(v));
          return `<polyline class="${state === view.state ? "" : "snp-beside"}" points="${drawn.map(([v, k]) => `${x(k)},${y(v)}`).join(" ")}"/>`;
        };
        const dots = shown[view.state].map((v, k) =>
          isFinite(v)
            ? `<circle cx="${x(k)}" cy="${y(v)}" r="${names[k] === view.site ? 5 : 3}" data-go='{"site":"${names[k]}"}'><title>encoder ${blocks[k]}: ${short(v)}</title></circle>`
            : "",
        );
        const name = `${COLUMNS[key]}${key === "labels" || key === "noise" ? ` per ${view.unit}` : ""}`;
        return `<figure><figcaption>${name}</figcaption><svg viewBox="0 0 180 104"><path d="M34 8V84H176"/><text x="30" y="14" text-anchor="end">${short(top)}</text><text x="30" y="86" text-anchor="end">0</text>${Object.entries(shown).map(curve).join("")}${dots.join("")}<text x="34" y="99">encoder ${blocks[0]}</text><text x="176" y="99" text-anchor="end">${blocks.at(-1)}</text></svg></figure>`;
      })
      .join("");
  }

  /** Units that recognise few labels, a typical number or many, in the order of Python's explorer; or any. */
  pick(which) {
    const { site, view } = this, n = site.count(view.unit);
    const labels = which === "any" ? [] : this.summary(site).units.map((unit, number) => [unit.labels, number]).sort((a, b) => a[0] - b[0]);
    const number = which === "any" ? Math.floor(Math.random() * n) : labels[Math.floor(which * (n - 1))][1];
    this.show({ ...view, number }, true);
  }

  /** Units of the site that recognise a label, those first that say it loudest beside what else they say. */
  search() {
    const name = this.$(".snp-search input").value.trim().toLowerCase(), label = this.about.names.findIndex((each) => each.toLowerCase() === name);
    const { site, view } = this, K = site.labels, found = [];
    if (label >= 0)
      this.summary(site).units.forEach((unit, number) => {
        if (!unit.clusters.some((cluster) => cluster.includes(label))) return;
        const values = site.matrix(view.unit, number);
        found.push([values[label * (K + 1)] / values.reduce((a, b) => Math.max(a, b)), number]);
      });
    found.sort((a, b) => b[0] - a[0]);
    const buttons = found.slice(0, 8).map(([share, number]) => `<button data-go='{"number":${number}}'>${named({ ...view, number })}: ${share.toFixed(2)}</button>`);
    this.$(".snp-hits").innerHTML = label < 0 ? (name ? "no label" : "") : `${count(found.length, view.unit)} ${buttons.join("")}`;
  }

  link() {
    const url = `${location.href.split("#")[0]}#reader=${address(this.view)}`, say = (text) => (this.$("[role=status]").textContent = text);
    (navigator.clipboard?.writeText(url) || Promise.reject()).then(() => say("copied"), () => say(url));
  }

  save(name, blob) {
    const anchor = Object.assign(document.createElement("a"), { download: name, href: URL.createObjectURL(blob) });
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(anchor.href), 1000);
  }

  png() {
    const copy = Object.assign(document.createElement("canvas"), { width: this.right.width, height: this.right.height }), pen = copy.getContext("2d");
    pen.fillStyle = getComputedStyle(this).getPropertyValue("--snp-ground");
    pen.fillRect(0, 0, copy.width, copy.height);
    pen.drawImage(this.right, 0, 0);
    copy.toBlob((blob) => this.save(`${address(this.view).replaceAll("/", "_")}.png`, blob));
  }

  csv() {
    const { names } = this.about, K = names.length, quoted = (text) => `"${text.replaceAll('"', '""')}"`;
    const rows = names.map((name, i) => [quoted(name), ...this.values.subarray(i * K, (i + 1) * K)].join(","));
    const text = `${['"true label"', ...names.map(quoted)].join(",")}\n${rows.join("\n")}\n`;
    this.save(`${address(this.view).replaceAll("/", "_")}.csv`, new Blob([text], { type: "text/csv" }));
  }
}

window.snpReader = { put: (name, value) => files.set(name, value), HALVES, look, summarize, siteOf, address, parse };
customElements.define("snp-reader", Reader);
})();
