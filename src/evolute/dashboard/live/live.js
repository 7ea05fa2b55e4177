// Asking and showing: once a second while somebody looks, rarely while nobody does, and ever more
// rarely while the server is away. What changes is said once; figures are never read out by themselves.

const EVERY_S = 1, HIDDEN_S = 15, MOST_S = 30, PATIENCE_S = 15, KEY = "evolute-key";
let isPaused = false, failures = 0, timer = 0, asking = null, last = null;

function state(text, isAway = false) {
  say("state", text);
  byId("state").classList.toggle("away", isAway);
}

function pauseInS() {
  if (failures) return Math.min(2 ** (failures - 1), MOST_S);
  return document.hidden ? HIDDEN_S : EVERY_S;
}

function later() {
  clearTimeout(timer);
  if (!isPaused) timer = setTimeout(ask, 1000 * pauseInS());
}

async function ask() {
  clearTimeout(timer);
  asking?.abort();
  const mine = (asking = new AbortController());
  const patience = setTimeout(() => mine.abort(), 1000 * PATIENCE_S);
  try {
    const key = sessionStorage.getItem(KEY);
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    const answer = await fetch("dashboard/data", { headers, signal: mine.signal, cache: "no-store" });
    if (answer.status === 401) return wantKey(key);
    const body = await answer.json();
    if (!answer.ok) return answer.status === 501 ? stop(body) : away(body.error?.message ?? `status ${answer.status}`);
    arrived(body, key);
  } catch {
    if (mine === asking) away("the server does not answer");
  } finally {
    clearTimeout(patience);
  }
}

function arrived(body, key) {
  failures = 0;
  last = body;
  byId("key-form").hidden = true;
  byId("figures").hidden = false;
  byId("forget").hidden = !key;
  const name = document.hidden ? `Hidden: refreshing every ${HIDDEN_S} s` : "Live";
  state(isPaused ? "Paused" : name);
  say("when", `as of ${new Date().toLocaleTimeString()}`);
  show(body);
  later();
}

function away(why) {
  failures += 1;
  state(`No news: ${why}. Trying again.`, true);
  if (!isPaused) say("when", `next try in ${pauseInS()} s; ${last ? "the figures below are old" : "nothing to show yet"}`);
  later();
}

function stop(body) {
  state(body.error.message, true);
  say("when", "");
}

function wantKey(key) {
  const isLost = [document.body, byId("forget")].includes(document.activeElement); // the focus
  sessionStorage.removeItem(KEY);
  byId("figures").hidden = byId("forget").hidden = true;
  byId("key-form").hidden = false;
  state(key ? "The server does not know this key." : "An API key is needed.", Boolean(key));
  say("when", "");
  if (isLost || key) byId("key").focus();
}

function toggle() {
  isPaused = !isPaused;
  byId("pause").firstChild.textContent = isPaused ? "Go on " : "Pause ";
  if (isPaused) {
    clearTimeout(timer);
    asking?.abort();
    asking = null;
    state("Paused");
  } else {
    state("Asking the server …");
    ask();
  }
}

function show(data) {
  const { queues, memory, settings } = data;
  say("model", `${data.model}, weights ${data.weight_version}`);
  document.title = `${queues.running} running, ${queues.waiting} waiting - Evolute`;
  byId("whose").hidden = data.tenant === null;
  say("whose", `Requests and shares are those of tenant ${data.tenant}; totals are the whole engine's.`);
  showQueues(queues, settings, data);
  showRates(data.seconds);
  showMemory(memory);
  showTree(memory.tree);
  showTenants(data);
  const loads = data.adapter_loads.loads;
  say("adapter-text", `${cut(data.adapters.length, data.num_adapters, "adapter")} loaded; ${many(loads, "copy", "copies")} to pages so far.`);
  fill("adapter-table", data.adapters, "No adapter is loaded.");
  fill("recent-table", data.recent, "No request has ended yet.");
}

const cut = (shown, all, what) => (shown < all ? `${whole(shown)} of ${many(all, what)} shown:` : many(all, what));

function tiles(rows) {
  const at = byId("tiles");
  rows.forEach(([name, value], i) => {
    if (!at.children[i]) {
      const tile = element("div", undefined, { class: "tile" });
      tile.append(element("dt", name), element("dd"));
      at.append(tile);
    }
    const [dt, dd] = at.children[i].children;
    if (dt.textContent !== name) dt.textContent = name;
    if (dd.textContent !== value) dd.textContent = value;
  });
}

function showQueues(queues, settings, data) {
  tiles([
    [`running, of at most ${whole(settings.max_running)}`, whole(queues.running)],
    [`waiting, of at most ${whole(settings.max_waiting)}`, whole(queues.waiting)],
    ["outputs ended", whole(data.counts.finished)],
    ["preemptions", whole(data.counts.preemptions)],
    ["steps", whole(data.counts.steps)],
    ["policy", settings.policy],
  ]);
  const why = queues.limit || (queues.waiting ? "nothing told yet" : "nothing; nobody waits");
  say("limit", `What stopped the last admission: ${why}.`);
  const [running, waiting] = queues.shown_of;
  say("running-caption", `Running: ${cut(queues.running_requests.length, running, "request")}`);
  say("waiting-caption", `Waiting: ${cut(queues.waiting_requests.length, waiting, "request")}, in the order of arrival`);
  fill("running", queues.running_requests, "Nothing runs.");
  fill("waiting", queues.waiting_requests, "Nobody waits.");
}

function showRates(all) {
  const column = (i) => all.map((second) => second[i]);
  const [made, computed, cached, finished] = [0, 1, 2, 3].map(column);
  const mean = (values, n) => values.slice(-n).reduce((a, b) => a + b, 0) / n;
  const [prompt, found] = [mean(computed, 60), mean(cached, 60)];
  say("rates", `Over the last minute ${rate(mean(made, 60))} tokens a second were made and ${rate(prompt)} computed; ` +
    `${rate(found)} more were found in the prefix cache. ${many(finished.slice(-60).reduce((a, b) => a + b, 0), "output")} ended. ` +
    `Most in five seconds of the last five minutes: ${rate(Math.max(...means(made, 5)))} made a second.`);
  drawRate("made", made, 0);
  drawRate("computed", computed, 1);
  const size = 30, parts = [made, computed, cached].map((values) => means(values, size));
  const rows = parts[0].map((_, i) => ({
    ago: (parts[0].length - 1 - i) * size,
    made: parts[0][i], computed: parts[1][i], cached: parts[2][i],
    finished: finished.slice(i * size, (i + 1) * size).reduce((a, b) => a + b, 0),
  }));
  fill("rate-table", rows.reverse(), "");
}

function showMemory(memory) {
  const all = memory.num_pages;
  const owners = [
    { owner: "running sequences", short: "running", pages: memory.own, kind: "f1", on: "onto" },
    { owner: "prefix cache, in use", short: "in use", pages: memory.pinned, kind: "held", on: "onto" },
    { owner: "prefix cache, idle", short: "idle", pages: memory.cached - memory.pinned, kind: "idle", on: "label" },
    { owner: "adapters, in use", short: "in use", pages: memory.adapters - memory.idle_adapters, kind: "f3", on: "onto" },
    { owner: "adapters, idle", short: "idle", pages: memory.idle_adapters, kind: "spare", on: "label" },
    { owner: "free", short: "free", pages: memory.free, kind: "edge", on: "label" },
  ];
  say("memory-text", `${many(all, "page")} of ${many(memory.page_size, "token")} each; ${share(memory.free, all)} free, and ` +
    `${share(memory.cached - memory.pinned + memory.idle_adapters, all)} idle, to be taken when wanted.` +
    (memory.tier_slots ? ` The second tier holds ${whole(memory.tier_pages)} evicted ones, and has room for ${whole(memory.tier_slots)}.` : ""));
  drawMemory(owners, all);
  fill("memory-table", owners.map((one) => ({ ...one, all })), "");
}

function showTree(tree) {
  const names = tree.spaces.map((space) =>
    space.is_stale ? "of old weights" : `${space.adapter ?? "base"} v${space.version}${space.is_salted ? ", salted" : ""}`);
  const shown = tree.branches.length;
  const seen = tree.branches.reduce((sum, branch) => sum + branch.num_pages, 0);
  const left = tree.num_nodes - shown;
  say("tree-text", tree.num_nodes
    ? `${many(tree.num_nodes, "branch", "branches")} hold ${many(tree.num_pages, "page")}` +
      (left ? `; the largest ${shown} are shown, ${many(left, "smaller one")} with ${many(tree.num_pages - seen, "page")} are not.` : ".")
    : "The prefix cache is empty.");
  byId("tree").parentElement.hidden = !tree.num_nodes;
  if (tree.num_nodes) drawTree(tree, names);
  const paths = [], children = {};
  const rows = tree.branches.map((branch, i) => {
    const place = (children[branch.parent] = (children[branch.parent] ?? 0) + 1);
    const under = branch.parent < 0 ? "" : paths[branch.parent];
    paths[i] = under ? `${under}.${place}` : String(place);
    return { ...branch, path: paths[i], under: under || "the root", space: names[branch.space] };
  });
  fill("tree-table", rows, "The prefix cache is empty.");
}

function showTenants(data) {
  const own = Object.fromEntries(data.memory.owners.map((one) => [`:${one.tenant}`, one.num_pages]));
  const all = data.tenants.reduce((sum, one) => sum + (one.service ?? 0), 0);
  say("tenant-caption", `Shares: ${cut(data.tenants.length, data.num_tenants, "tenant")}, under ${data.settings.policy}`);
  fill("tenant-table", data.tenants.map((one) => ({ ...one, all, own: own[`:${one.tenant}`] ?? 0 })), "No tenant is known yet.");
}

byId("pause").addEventListener("click", toggle);
byId("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  ask();
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, byId("key").value.trim());
  byId("key").value = "";
  ask();
});
document.addEventListener("keydown", (event) => {
  if (event.altKey && !event.ctrlKey && !event.metaKey && event.code === "KeyP") {
    event.preventDefault();
    toggle();
  }
});
document.addEventListener("visibilitychange", () => {
  if (isPaused || !byId("key-form").hidden) return;
  if (document.hidden) {
    state(`Hidden: refreshing every ${HIDDEN_S} s`);
    later();
  } else ask();
});
addEventListener("resize", () => last && !byId("figures").hidden && show(last));
ask();
