// The form works without this; with it, hands stay on the keyboard.
const form = document.getElementById("judging");

// The harm has to be stated as soon as one answer is not correct.
const harm = form?.querySelector('[name="severity"]');
form?.addEventListener("change", () => {
  const verdicts = [...form.querySelectorAll('[name^="verdict_"]:checked')];
  harm.required = verdicts.some((verdict) => verdict.value !== "correct");
});

// Judges the criterion that has the focus, else the first one open, and goes on to the next.
function judgeCriterion(value) {
  const criteria = [...(form?.querySelectorAll(".criterion") ?? [])];
  const current =
    document.activeElement.closest(".criterion") ?? criteria.find((one) => !one.querySelector(":checked"));
  if (!current) return false;
  current.querySelector(`[value="${value}"]`).click();
  const next = criteria[criteria.indexOf(current) + 1] ?? current;
  (next.querySelector(":checked") ?? next.querySelector("input")).focus();
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key === "Enter") form?.requestSubmit();
    return;
  }
  const writing = event.target.matches("textarea, input:not([type=radio])");
  if (event.key === "Escape" && writing) {
    event.target.blur();
    return;
  }
  if (writing) return;
  if (event.key === "Enter" && !event.target.matches("button, a")) {
    event.preventDefault();
    form?.requestSubmit();
    return;
  }
  const met = { m: "yes", x: "no" }[event.key.toLowerCase()];
  if (met && judgeCriterion(met)) {
    event.preventDefault();
    return;
  }
  const wanted = form?.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (!wanted) return;
  event.preventDefault();
  wanted.focus();
  if (wanted.type === "radio") wanted.click();
});
