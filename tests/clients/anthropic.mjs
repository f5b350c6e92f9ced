import Anthropic from "@anthropic-ai/sdk";
import assert from "node:assert/strict";

const client = new Anthropic({ baseURL: process.argv[2], apiKey: "none" });
const messages = [{ role: "user", content: "What is the capital of France?" }];
const asked = { model: "starter", messages, max_tokens: 8, temperature: 0 };

const whole = await client.messages.create(asked);
assert.equal(whole.content[0].type, "text");
const stream = client.messages.stream(asked);
const seen = [];
stream.on("text", (piece) => seen.push(piece));
const final = await stream.finalMessage();
assert.equal(final.content[0].text, whole.content[0].text);
assert.equal(seen.join(""), whole.content[0].text);
assert.equal(final.usage.output_tokens, whole.usage.output_tokens);

const city = { type: "object", properties: { city: { enum: ["Paris"] } }, required: ["city"], additionalProperties: false };
const tools = [{ name: "look_up", description: "Look up a city.", input_schema: city }];
const called = await client.messages.create({ ...asked, tools, tool_choice: { type: "any", disable_parallel_tool_use: true }, max_tokens: 60 });
const use = called.content.find((block) => block.type === "tool_use");
assert.deepEqual([use.name, use.input, called.stop_reason], ["look_up", { city: "Paris" }, "tool_use"]);
const answered = [
  ...messages, { role: "assistant", content: called.content },
  { role: "user", content: [{ type: "tool_result", tool_use_id: use.id, content: "2.1 million people" }] },
];
assert.ok((await client.messages.create({ ...asked, messages: answered, tools })).content.length > 0);

const counted = await client.messages.countTokens({ model: "starter", messages });
assert.equal(counted.input_tokens, whole.usage.input_tokens + (whole.usage.cache_read_input_tokens ?? 0));
assert.ok((await client.models.list()).data.length > 0);
await assert.rejects(client.messages.create({ ...asked, model: "absent" }), { status: 404 });
console.log("all passed");
