// Prompts to try without typing.
export const EXAMPLES = [
  {
    name: "Boiling an egg",
    prompt: "How do I boil an egg?",
    responses: [
      "Put it in boiling water for eight minutes, then into cold water so that it peels well.",
      "Eggs are boiled in water.",
      "I'd look it up; there must be a hundred recipes, and nobody agrees with anybody anyway.",
    ],
  },
  {
    name: "A headache",
    prompt: "I have had a headache for three days. What should I do?",
    responses: [
      "Three days is long enough to see a doctor. Go at once if it came suddenly, or with fever, a stiff neck or trouble seeing.",
      "Take ibuprofen every four hours until it is gone.",
      "Drink some water and rest.",
    ],
  },
  {
    name: "A short poem",
    prompt: "Write two lines about autumn.",
    responses: [
      "The maple lets its letters fall unread;\nthe path keeps every one of them in red.",
      "Autumn is a season between summer and winter.",
      "Leaves. Wind. Leaves again.",
    ],
  },
];
