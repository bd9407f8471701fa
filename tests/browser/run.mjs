// The pages in a real browser, as people use them: by keys alone, with a mouse on a phone and in the dark, and without
// script. `tests/system/browser.rs` starts this and answers what it asks on standard output: keys, calls, tools.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { join } from "node:path";
import { chromium } from "playwright-core";

const { PROCURA_URL: url, PROCURA_CHROMIUM: executablePath, PROCURA_SHOTS: shots } = process.env;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const began = Date.now();
const patience = 15_000;

const say = (text) => process.stderr.write(`${((Date.now() - began) / 1000).toFixed(1).padStart(6)} s  ${text}\n`);
const check = (holds, text) => { if (!holds) throw new Error(text); };

async function ask(what) {
  process.stdout.write(`${JSON.stringify(what)}\n`);
  return JSON.parse((await answers.next()).value);
}

/** A browser window in which nothing may go wrong unheard. */
async function open(browser, options) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, ...options });
  context.setDefaultTimeout(patience);
  const page = await context.newPage();
  const wrong = [];
  let expected = null;
  page.on("pageerror", (e) => wrong.push(`script: ${e}`));
  page.on("console", (m) => {
    if (m.type() !== "error" && m.type() !== "warning") return;
    // What the browser itself says of an answer that we asked for.
    if (expected && m.text().includes(`status of ${expected}`)) return;
    wrong.push(`${m.location().url}: ${m.text()}`);
  });
  page.on("requestfailed", (r) => { if (!r.url().includes("/stream")) wrong.push(`${r.url()}: ${r.failure()?.errorText}`); });
  page.on("request", (r) => { if (!/^http:\/\/127\.0\.0\.1:/.test(r.url())) wrong.push(`asks elsewhere: ${r.url()}`); });
  return {
    context,
    page,
    /** Within `act` the browser may report this status. */
    async expecting(status, act) { expected = status; await act(); expected = null; },
    nothingWrong() { check(wrong.length === 0, `the console says:\n${wrong.join("\n")}`); },
  };
}

/** A picture of the screen, its structure, and what axe finds. */
async function look(window, name) {
  const { page } = window;
  await page.screenshot({ path: join(shots, `${name}.png`), fullPage: true, animations: "disabled" });
  check((await page.locator("h1").count()) === 1, `${name}: expected one h1`);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  check(wide <= 0, `${name}: ${wide} px wider than the window`);
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run({ resultTypes: ["violations"] }));
  const grave = violations.filter((v) => v.impact === "serious" || v.impact === "critical");
  check(grave.length === 0, `${name}: axe finds\n${grave.map((v) => `${v.id}: ${v.help}\n${v.nodes.map((n) => n.html).join("\n")}`).join("\n")}`);
  window.nothingWrong();
  say(name);
}

/** Moves the focus with the Tab key until it is on this element. */
async function tabTo(page, locator) {
  await locator.waitFor();
  for (let presses = 0; presses < 120; presses += 1) {
    if (await locator.evaluate((e) => e === document.activeElement)) {
      const seen = await locator.evaluate((e) => getComputedStyle(e).outlineStyle !== "none");
      check(seen, "the focus cannot be seen");
      return;
    }
    await page.keyboard.press("Tab");
  }
  throw new Error(`no way with the Tab key to ${locator}`);
}

/** One way to use a page: the same steps by keys alone, or with a mouse. */
const byKeys = {
  async follow(page, locator) { await tabTo(page, locator); await page.keyboard.press("Enter"); },
  async press(page, locator) { await tabTo(page, locator); await page.keyboard.press("Space"); },
  /** Short ones are typed, keys and signatures pasted. */
  async fill(page, locator, text) {
    await tabTo(page, locator);
    await page.keyboard.press("ControlOrMeta+A");
    await (text.length > 40 ? page.keyboard.insertText(text) : page.keyboard.type(text));
  },
  async choose(page, locator, value) {
    await tabTo(page, locator);
    const label = await locator.locator(`option[value="${value}"]`).textContent();
    await page.keyboard.type(label.trim().slice(0, 12));
    check((await locator.inputValue()) === value, `${value} cannot be chosen by keys`);
  },
};
const byMouse = {
  follow: (_, locator) => locator.click(),
  press: (_, locator) => locator.click(),
  fill: (_, locator, text) => locator.fill(text),
  choose: (_, locator, value) => locator.selectOption(value),
};

const link = (page, name) => page.getByRole("link", { name, exact: true });
const labelled = (page, name) => page.getByLabel(name, { exact: true });
const button = (page, name) => page.getByRole("button", { name, exact: true });
const menu = (page, name) => page.getByRole("navigation").getByRole("link", { name, exact: true });
const at = (page, path) => page.waitForURL((u) => u.pathname === path || (path.endsWith("*") && u.pathname.startsWith(path.slice(0, -1))));

async function signIn(page, way, who) {
  await page.goto(url);
  await way.follow(page, link(page, "Sign in with your organisation"));
  await way.fill(page, labelled(page, "User name"), who);
  await way.press(page, button(page, "Sign in"));
  await page.getByText("What do you want to do?").waitFor();
}

async function register(page, way, agent, seen) {
  await way.follow(page, menu(page, "Agents"));
  await at(page, "/agents");
  await seen?.("agents-empty");
  await way.follow(page, link(page, "Register an agent"));
  const { key } = await ask({ do: "key", agent });
  await way.fill(page, labelled(page, "Name"), agent);
  await way.fill(page, labelled(page, "Public key"), key);
  await seen?.("agent-new");
  await way.press(page, button(page, "Next: show that the agent holds it"));
  await labelled(page, "Signature").waitFor();
  const command = await page.locator("pre").first().textContent();
  const { signature } = await ask({ do: "sign", agent, message: command.match(/printf '([0-9a-f]+)'/)[1] });
  await way.fill(page, labelled(page, "Signature"), signature);
  await seen?.("agent-sign");
  await way.press(page, button(page, "Register"));
  await page.getByText(`${agent} is registered.`).waitFor();
  await seen?.("agents");
  return new URL(page.url()).searchParams.get("made");
}

async function delegate(page, way, agent, id, seen) {
  await way.follow(page, menu(page, "Delegate"));
  await at(page, "/delegate");
  await way.choose(page, labelled(page, "Agent"), id);
  await way.fill(page, labelled(page, "Resources"), "acct/eu/*");
  await way.fill(page, labelled(page, "At most, per call"), "amount=500.00EUR");
  await way.fill(page, labelled(page, "May be passed on, times"), "2");
  await seen?.("delegate");
  await way.press(page, button(page, "Show me what that means"));
  await page.getByText("These words are what you consent to.").waitFor();
  const shown = await page.locator("pre.summary").textContent();
  check(shown.includes(`agent ${agent} may act for you`) && shown.includes("amount at most 500.00 EUR per call"), shown);
  await seen?.("preview");
  await way.press(page, button(page, "I delegate this"));
  await page.getByText("Granted, and in the log.").waitFor();
  const made = new URL(page.url()).searchParams.get("made");
  // What is kept is word for word what was shown; the event holds the hash of just these words.
  check((await page.locator(`[id="${made}"] pre`).textContent()) === shown, "the grant says something else than the preview");
  await seen?.("delegations");
  return made;
}

/** Alice's whole day, once. `seen` looks at each screen. */
async function day(window, way, agent, seen) {
  const { page } = window;
  const helper = `helper-${agent}`;
  await signIn(page, way, "alice");
  await seen?.("home");
  const id = await register(page, way, agent, seen);
  const helperId = await register(page, way, helper);

  // A form that is wrong says where, and keeps what was typed.
  await way.follow(page, menu(page, "Delegate"));
  await at(page, "/delegate");
  await way.fill(page, labelled(page, "At most, per call"), "amount=500EUR");
  await window.expecting(422, async () => {
    await way.press(page, button(page, "Show me what that means"));
    await page.getByRole("alert").waitFor();
  });
  const field = labelled(page, "At most, per call");
  check((await field.inputValue()) === "amount=500EUR" && (await field.getAttribute("aria-invalid")) === "true", "the wrong field is not named");
  await seen?.("delegate-wrong");

  const delegation = await delegate(page, way, agent, id, seen);
  await ask({ do: "mint", agent, id, delegation });

  // Decisions: on the page before they happen, then there by themselves.
  await way.follow(page, menu(page, "Decisions"));
  await at(page, "/decisions");
  const { live } = window;
  if (live) {
    await page.evaluate(() => { globalThis.sameDocument = true; });
    await seen?.("decisions-empty");
  }
  const allowed = await ask({ do: "call", agent, resource: "acct/eu/7", minor: 12_000 });
  check(allowed.status === 200, `the tool says ${JSON.stringify(allowed)}`);
  const refused = await ask({ do: "call", agent, resource: "acct/eu/7", minor: 50_001 });
  check(refused.code === "limit", `the tool says ${JSON.stringify(refused)}`);
  await ask({ do: "pass_on", from: agent, to: helper, id: helperId });
  await ask({ do: "call", agent: helper, resource: "acct/eu/9", minor: 9_900 });
  const rows = page.locator("ol.feed > li");
  const row = (verdict, what) => rows.filter({ hasText: agent }).filter({ hasText: verdict }).filter({ hasText: what }).first();
  const arrived = async () => {
    await row("allowed", "amount 120.00 EUR").waitFor();
    await row("limit", "amount 500.01 EUR").waitFor();
    await row("allowed", `via ${agent}`).waitFor();
  };
  if (live) {
    await arrived();
    check(await page.evaluate(() => globalThis.sameDocument === true), "the page was loaded anew");
  } else {
    for (const end = Date.now() + patience; (await row("allowed", `via ${agent}`).count()) === 0;) {
      check(Date.now() < end, "the decisions do not show up");
      await way.follow(page, link(page, "Look again"));
      await page.waitForLoadState();
    }
    await arrived();
  }
  await seen?.("decisions");
  await way.choose(page, labelled(page, "Agent"), id);
  await way.choose(page, labelled(page, "Verdict or cause"), "limit");
  await way.press(page, button(page, "Show"));
  await page.waitForURL(/verdict=limit/);
  check((await rows.count()) === 1 && (await rows.first().textContent()).includes("limit"), "the filter shows something else");
  await seen?.("decisions-filtered");

  // The agent, and the tree with the link that a receipt has shown.
  await way.follow(page, menu(page, "Agents"));
  await way.follow(page, link(page, agent));
  await page.getByText("Last use").waitFor();
  await seen?.("agent");
  await way.follow(page, menu(page, "Delegations"));
  await page.getByText(`passed on to ${helper}`).waitFor();
  await page.getByText(/2 allowed, [1-9] denied/).waitFor();
  await seen?.("tree");

  // Back from the helper on, then all of it.
  await way.follow(page, page.getByRole("link", { name: /^Revoke from here/ }));
  await way.fill(page, labelled(page, "Reason"), "the helper is done");
  await seen?.("revoke-link");
  await way.press(page, button(page, "Revoke it now"));
  await covered(page, way, window, 2);
  check((await ask({ do: "call", agent: helper, resource: "acct/eu/9", minor: 100 })).code === "revoked", "the link lives");
  check((await ask({ do: "call", agent, resource: "acct/eu/7", minor: 100 })).status === 200, "the delegation died with the link");
  await way.follow(page, link(page, "Back"));
  await way.follow(page, page.getByRole("link", { name: `Revoke ${delegation}`, exact: true }));
  await seen?.("revoke");
  await way.fill(page, labelled(page, "Reason"), "the month is paid");
  await ask({ do: "pause" });
  await way.press(page, button(page, "Revoke it now"));
  await covered(page, way, window, 1);
  await page.getByText("silent for longer than its own bound").waitFor();
  await page.getByText("it is enrolled and was never heard of").waitFor();
  check(/denies since \d+ ms/.test(await page.locator("#board").textContent()), "no milliseconds on the board");
  await seen?.("board");
  await ask({ do: "resume" });
  check((await ask({ do: "call", agent, resource: "acct/eu/7", minor: 100 })).code === "revoked", "the delegation lives");
  await way.follow(page, link(page, "Back"));
  await page.locator(`[id="${delegation}"] > .bar`).getByText("revoked").waitFor();
  await page.locator(`[id="${delegation}"] .links`).getByText("revoked").waitFor();
  await seen?.("delegations-revoked");
  await way.press(page, button(page, "Sign out"));
  await link(page, "Sign in with your organisation").waitFor();
  await seen?.("signed-out");
}

/** The board says of so many verifiers that they have applied it; without script it loads itself anew. */
async function covered(page, _way, _window, applied) {
  await at(page, "/revocations/*");
  await page.getByRole("status").filter({ hasText: `${applied} applied` }).waitFor();
}

/** Sam's: verifiers, the log, the kill switch. */
async function watch(window, way, agent, seen) {
  const { page } = window;
  await signIn(page, way, "sam");
  await seen?.("home-security");
  await way.follow(page, menu(page, "Verifiers"));
  await page.getByText("payments/3").waitFor();
  await seen?.("verifiers");
  await way.follow(page, menu(page, "Decisions"));
  await seen?.("decisions-all");
  await way.follow(page, menu(page, "Events"));
  await seen?.("events");
  await way.choose(page, labelled(page, "Kind"), "revoke");
  await way.press(page, button(page, "Show"));
  await page.waitForURL(/kind=revoke/);
  await way.follow(page, page.getByRole("link", { name: /^Verify/ }).first());
  await page.getByText("come to the root of the released tree").waitFor();
  await page.getByText("procura log replay bundle.tar --trust trust.json").waitFor();
  await seen?.("event");
  await way.follow(page, link(page, "Who has heard of it"));
  await page.getByText("never heard of").waitFor();
  await way.follow(page, menu(page, "Kill switch"));
  await way.choose(page, labelled(page, "What"), "agent");
  await way.fill(page, labelled(page, "Id"), agent);
  await way.fill(page, labelled(page, "Reason"), "it misbehaves");
  await way.fill(page, labelled(page, "Confirmation"), "kill all");
  await window.expecting(422, async () => {
    await way.press(page, button(page, "Kill"));
    await page.getByRole("alert").waitFor();
  });
  check((await labelled(page, "Id").inputValue()) === agent, "what was typed is gone");
  await seen?.("kill-wrong");
  await way.fill(page, labelled(page, "Confirmation"), "kill agent");
  await way.press(page, button(page, "Kill"));
  await covered(page, way, window, 2);
  await seen?.("board-kill");
}

const browser = await chromium.launch({ executablePath, args: process.getuid() === 0 ? ["--no-sandbox"] : [] });
try {
  // By keys alone, every screen looked at.
  const keys = await open(browser, { colorScheme: "light" });
  keys.live = true;
  await day(keys, byKeys, "invoice-bot", (name) => look(keys, name));
  await keys.context.close();

  // Without script: everything but what moves by itself.
  const plain = await open(browser, { javaScriptEnabled: false });
  await day(plain, byMouse, "plain-bot");
  plain.nothingWrong();
  say("the same without script");
  await plain.context.close();

  // In the dark, on a phone.
  const phone = await open(browser, { colorScheme: "dark", viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true });
  phone.live = true;
  await day(phone, byMouse, "phone-bot", (name) => look(phone, `phone-${name}`));
  await phone.context.close();

  const sam = await open(browser, { colorScheme: "light" });
  const alice = await open(browser, { colorScheme: "dark" });
  await signIn(alice.page, byMouse, "alice");
  const agent = await register(alice.page, byMouse, "rogue-bot");
  await delegate(alice.page, byMouse, "rogue-bot", agent);
  await look(alice, "dark-delegations");
  await watch(sam, byKeys, agent, (name) => look(sam, name));
  await alice.page.reload();
  await alice.page.getByText("with the agent").waitFor();
  await alice.page.goto(`${url}/agents/${agent}`);
  await look(alice, "dark-agent-killed");
  await sam.context.close();
  await alice.context.close();
} catch (e) {
  for (const page of browser.contexts().flatMap((c) => c.pages())) {
    process.stderr.write(`at ${page.url()}\n`);
    await page.screenshot({ path: join(shots, "failed.png"), fullPage: true }).catch(() => {});
  }
  process.stderr.write(`${e.stack}\n`);
  process.exitCode = 1;
} finally {
  await browser.close();
  process.stdin.destroy();
}
