/* The chosen sample and the prompt as it stands: compared while somebody writes, without asking the server. */
(() => {
  function held(sample) {
    try {
      return JSON.parse(sample) || {};
    } catch {
      return {};
    }
  }
  function mark(id, stands) {
    const place = document.getElementById(id);
    if (place) place.dataset.stands = stands ? "yes" : "no";
  }
  const samples = {
    // the expected answer that goes with the prompt: none as soon as it is not the sample's
    expected(prompt, sample) {
      const its = held(sample);
      const stands = Boolean(its.prompt) && its.prompt.trim() === (prompt || "").trim();
      mark("expected-answer", stands);
      return stands ? its.expected : "";
    },
    // whether the settings have the sample's system prompt
    watchSystem(system, sample) {
      mark("sample-system", held(sample).system === system);
    },
    prompt: (sample, prompt) => held(sample).prompt || prompt,
    // the sample's system prompt into the settings, and what stood there is what comes back later
    useSystem(sample, system) {
      const its = held(sample);
      return its.system ? [its.system, JSON.stringify({ ...its, before: system })] : [system, sample];
    },
  };
  window.playground = Object.assign(window.playground || {}, { samples });
})();
