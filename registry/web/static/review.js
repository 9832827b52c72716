// The form works without this; with it, hands stay on the keyboard.
const form = document.getElementById("judging");

// The harm has to be stated as soon as one answer is not correct.
const harm = form?.querySelector('[name="severity"]');
form?.addEventListener("change", () => {
  const verdicts = [...form.querySelectorAll('[name^="verdict_"]:checked')];
  harm.required = verdicts.some((verdict) => verdict.value !== "correct");
});

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
  const wanted = form?.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (!wanted) return;
  event.preventDefault();
  wanted.focus();
  if (wanted.type === "radio") wanted.click();
});
