
"use strict";
const PER_PAGE = 20;
const OUTCOMES = {
  all: "all", fixed: "fixed", broken: "broken", misled: "misled", abstained: "abstained", kept: "still right", wrong: "still wrong",
};
const TONES = { fixed: "good", broken: "bad", misled: "bad", abstained: "warn", kept: "good", wrong: "" };
const [REPEATS, ABSTAINS, CUT_OFF, CUT_LIST] = [1, 2, 4, 8];
const $ = (id) => document.getElementById(id);

/* What steers terminals, or turns the direction of writing, is shown as its number; nothing is ever markup. */
const visible = (text) =>
  text.replace(/\r\n/g, "\n").replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
    (found) => "\\u" + found.charCodeAt(0).toString(16).padStart(4, "0"));

function element(name, attributes, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...inside.map((one) => (typeof one === "string" ? visible(one) : one)));
  return made;
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/* A question under one condition, with what every model said to it. */
function items(data) {
  const found = new Map();
  for (const row of data.rows) {
    const [question, condition, model, seed, list, forged, answer, text, right, em, f1, flags] = row;
    const key = [question, condition, seed].join();
    if (!found.has(key)) found.set(key, { question, condition, seed, list, forged, said: new Map() });
    found.get(key).said.set(model, { answer, text, right: right >= 1, em, f1, flags, list });
  }
  const bare = (item) => Number(!data.lists[item.list].length);  // last: most is to be seen where documents are
  return [...found.values()].sort((one, other) => bare(one) - bare(other));
}

/* All that holds of one item for two models; a wrong answer may be misled or abstained beside. */
function outcomes(item, before, after) {
  const [old, now] = [item.said.get(before), item.said.get(after)];
  if (!now) return [];
  const found = [];
  if (old) found.push(old.right ? (now.right ? "kept" : "broken") : now.right ? "fixed" : "wrong");
  if (!now.right && now.flags & REPEATS) found.push("misled");
  if (now.flags & ABSTAINS) found.push("abstained");
  return found;
}

class Page {
  constructor(data) {
    this.data = data;
    this.items = items(data);
    this.number = 0;
    this.alone = new Map();  // answers without documents of models that are asked nothing else, as DuetRAG's reciter
    const conditions = [...new Set(data.rows.map((row) => row[1]))];
    this.models = [...new Set(data.rows.map((row) => row[2]))];
    this.several = new Set(data.rows.map((row) => row[3])).size > 1;
    for (const model of this.models) {
      const own = this.items.filter((item) => item.said.has(model));
      if (conditions.length > 1 && own.every((item) => item.list === own[0].list) && !data.lists[own[0].list].length)
        this.alone.set(model, new Map(own.map((item) => [item.question, item.said.get(model)])));
    }
    const asked = this.models.filter((model) => !this.alone.has(model));
    this.fill("before", this.models, asked[0] ?? this.models[0]);
    this.fill("after", this.models, asked[asked.length - 1] ?? this.models[this.models.length - 1]);
    $("condition").append(element("option", { value: "" }, "all"));
    for (const one of conditions) $("condition").append(element("option", { value: one }, data.words[one]));
    for (const [name, title] of Object.entries(OUTCOMES)) {
      const input = element("input", { type: "radio", name: "outcome", value: name });
      input.checked = name === "all";
      $("outcomes").append(element("label", { class: "chip" }, input, title + " ", element("span", { id: "n-" + name })));
    }
    let waiting = 0;
    $("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => this.filter(), 120); });
    for (const id of ["before", "after", "condition", "outcomes"]) $(id).addEventListener("change", () => this.filter());
    $("filters").addEventListener("submit", (event) => { event.preventDefault(); this.filter(); });
    $("previous").addEventListener("click", () => this.turn(-1));
    $("next").addEventListener("click", () => this.turn(1));
    $("filters").hidden = false;
    $("loading").remove();
    this.filter();
  }

  fill(id, models, chosen) {
    for (const model of models) $(id).append(element("option", { value: model }, this.data.words[model]));
    $(id).value = chosen;
  }

  /* The texts that a search looks at, in small letters, made at the first search. */
  texts() {
    const low = (text) => text.toLowerCase();
    this.low ??= {
      documents: this.data.documents.map(([title, text]) => low(title + "\n" + text)),
      questions: this.data.questions.map(([id, text, answers]) => low([id, text, ...answers].join("\n"))),
      words: this.data.words.map(low),
    };
    return this.low;
  }

  searched(wanted) {
    if (!wanted) return () => true;
    const { documents, questions, words } = this.texts();
    const hits = (all) => all.map((text) => text.includes(wanted));
    const [inDocument, inQuestion, inWord] = [hits(documents), hits(questions), hits(words)];
    const inList = this.data.lists.map((list) => list.some(([document]) => inDocument[document]));
    return (item) => inQuestion[item.question] || inList[item.list] || inWord[item.forged]
      || [...item.said.values()].some((one) => inWord[one.answer] || inWord[one.text] || inList[one.list]);
  }

  filter() {
    const [before, after] = [Number($("before").value), Number($("after").value)];
    const condition = $("condition").value;
    const wanted = document.querySelector("input[name=outcome]:checked").value;
    const matches = this.searched($("search").value.trim().toLowerCase());
    const counts = Object.fromEntries(Object.keys(OUTCOMES).map((name) => [name, 0]));
    this.found = [];
    for (const item of this.items) {
      if ((condition && item.condition !== Number(condition)) || !matches(item)) continue;
      const holds = outcomes(item, before, after);
      counts.all++;
      for (const name of holds) counts[name]++;
      if (wanted === "all" || holds.includes(wanted)) this.found.push([item, holds]);
    }
    for (const [name, count] of Object.entries(counts)) $("n-" + name).textContent = count;
    this.number = 0;
    this.draw();
  }

  turn(step) {
    this.number += step;
    this.draw();
    $("count").scrollIntoView();
  }

  draw() {
    const total = Math.max(1, Math.ceil(this.found.length / PER_PAGE)), start = this.number * PER_PAGE;
    const shown = this.found.slice(start, start + PER_PAGE);
    const said = this.found.length ? `${start + 1} to ${start + shown.length} of ${this.found.length}` : "none";
    $("count").textContent = `Questions shown: ${said}`;
    $("cards").replaceChildren(...shown.map(([item, holds]) => this.card(item, holds)));
    $("page").textContent = `page ${this.number + 1} of ${total}`;
    $("previous").disabled = this.number === 0;
    $("next").disabled = this.number + 1 >= total;
    $("pages").hidden = total === 1;
  }

  card(item, holds) {
    const { questions, words, lists } = this.data;
    const [id, text, answers] = questions[item.question];
    const tags = [element("span", { class: "tag" }, words[item.condition])];
    if (this.several) tags.push(element("span", { class: "tag" }, `seed ${item.seed}`));
    for (const name of holds) tags.push(element("span", { class: `tag ${TONES[name]}` }, OUTCOMES[name]));
    const facts = element("dl", {}, element("dt", {}, "right answer"), element("dd", {}, answers.join("\nor ")));
    if (words[item.forged])
      facts.append(element("dt", {}, "forgeries say"), element("dd", {}, words[item.forged]));
    const made = element("article", { "data-id": id }, element("h3", {}, text), element("p", { class: "tags" }, ...tags), facts);
    made.append(this.said(item), ...this.lists(item));
    return made;
  }

  said(item) {
    const rows = [];
    for (const model of this.models) {
      const own = item.said.get(model), alone = own ? null : this.alone.get(model)?.get(item.question);
      if (own || alone) rows.push(this.answer(this.data.words[model] + (own ? "" : " (no documents)"), own ?? alone));
    }
    const head = ["model", "answer", "judged"].map((name) => element("th", { scope: "col" }, name));
    return element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
  }

  answer(model, one) {
    const { words } = this.data, cell = element("td", {}, words[one.answer] || "(nothing)");
    if (words[one.text].trim() !== words[one.answer].trim())
      cell.append(element("details", {}, element("summary", {}, "all that it wrote"), element("pre", { tabindex: "0" }, words[one.text])));
    const marks = [element("span", { class: `tag ${one.right ? "good" : "bad"}` }, one.right ? "right" : "wrong")];
    if (!one.right && one.flags & REPEATS) marks.push(" ", element("span", { class: "tag bad" }, "repeats the forgery"));
    if (one.flags & ABSTAINS) marks.push(" ", element("span", { class: "tag warn" }, "abstains"));
    if (one.flags & CUT_OFF) marks.push(" ", element("span", { class: "tag warn" }, "cut off"));
    marks.push(element("small", {}, ` EM ${one.em}, F1 ${one.f1}`));
    return element("tr", {}, element("th", { scope: "row" }, model), cell, element("td", {}, ...marks));
  }

  /* The list that was shown; where models were shown other lists, each. */
  lists(item) {
    const { lists, kinds, words } = this.data;
    const different = new Map();
    for (const [model, one] of item.said) different.set(one.list, [...(different.get(one.list) ?? []), words[model]]);
    return [...different].filter(([list]) => lists[list].length).map(([list, models]) => {
      const shown = lists[list];
      const counted = kinds.map((kind, at) => [shown.filter((one) => one[1] === at).length, kind]).filter(([count]) => count);
      const whose = different.size > 1 ? ` to ${models.join(", ")}` : "";
      const title = `${shown.length} documents shown${whose}: ${counted.map((one) => one.join(" ")).join(", ")}`;
      const made = element("details", { class: "list" }, element("summary", {}, title));
      made.addEventListener("toggle", () => {
        if (made.open && !made.querySelector(".document")) made.append(...shown.map((one) => this.document(one)));
      });
      return made;
    });
  }

  document([number, kind]) {
    const [title, text] = this.data.documents[number], name = this.data.kinds[kind];
    const tone = { forged: " bad", oracle: " good" }[name] ?? "";
    const head = element("h4", {}, element("span", { class: "tag" + tone }, name), " ", title || "(no title)");
    return element("div", { class: `document ${name}` }, head, element("pre", { tabindex: "0" }, text));
  }
}

unpack($("data").textContent).then((data) => new Page(data)).catch((error) => {
  $("loading").textContent = `The answers cannot be shown (${error}); answers.parquet beside this file holds them.`;
});
