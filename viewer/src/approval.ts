/** The card for tool calls that wait for a decision. It stands apart from the messages, which cannot reach its place. */
import { button, h, visible } from "./dom";
import { type Call, callText } from "./messages";

export interface Decision {
  approve: boolean;
  ids: string[];
  reason: string;
}

export function approvalCard(agent: string, calls: Call[], since: string, decide: (decision: Decision) => Promise<void>): HTMLElement {
  const several = calls.length > 1;
  const foreign = [...new Set(calls.filter((call) => call.client_side).map((call) => visible(call.name)))];
  // The server refuses to let another program's tool run.
  const boxes = calls.map((call) => h("input", { type: "checkbox", checked: !call.client_side, disabled: call.client_side, "aria-label": `Let ${visible(call.name)} run` }));
  const chosen = () => calls.filter((_, index) => boxes[index]!.checked).map((call) => call.id);
  const reason = h("input", { type: "text", class: "reason", placeholder: "Reason (optional, the agent reads it)", "aria-label": "Reason", maxlength: 2000 });
  const approve = button("Approve", () => answer(true), { class: "btn primary" });
  const deny = button(several ? "Deny all" : "Deny", () => answer(false));
  const showCount = () => {
    const allowed = chosen().length;
    approve.disabled = allowed === 0;
    if (several) approve.textContent = allowed === calls.length ? `Approve ${allowed}` : `Approve ${allowed}, deny ${calls.length - allowed}`;
  };
  for (const box of boxes) box.addEventListener("change", showCount);
  showCount();

  async function answer(approved: boolean) {
    card.disabled = true;
    await decide({ approve: approved, ids: approved ? chosen() : calls.map((call) => call.id), reason: reason.value.trim() });
    // Where nothing was decided, for want of a connection, the card is still here.
    card.disabled = false;
  }

  const shown = calls.map((call, index) => {
    const text = h("pre", { tabindex: "0" }, visible(callText(call.name, call.arguments)));
    return several ? h("label", { class: "choice" }, boxes[index]!, text) : text;
  });
  const words = foreign.length
    ? `Only the program that offered ${foreign.join(" and ")} can run it, so here it can only be denied.`
    : `Shown exactly as it would run.${since ? ` Waiting since ${since}.` : ""}`;
  const what = several ? `${calls.length} tools and waits` : "a tool and waits";
  const card = h(
    "fieldset",
    { class: "card", "aria-labelledby": "approval-title" },
    h("h2", { id: "approval-title" }, `${visible(agent)} wants to run ${what} for you`),
    ...shown,
    reason,
    h("div", { class: "row" }, approve, deny, h("span", { class: "sub" }, words)),
  );
  return card;
}
