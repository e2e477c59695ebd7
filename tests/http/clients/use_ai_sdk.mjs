// The AI SDK with its provider for compatible servers.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { baseURL, expect, hello, model, report } from "./report.mjs";

const provider = createOpenAICompatible({
  name: "kameleon", baseURL, apiKey: "none", includeUsage: true, supportsStructuredOutputs: true,
});
const wish = { model: provider(model), prompt: hello, maxRetries: 0 };
const weather = tool({
  description: "The weather of a city",
  inputSchema: z.object({ city: z.enum(["Paris", "Oslo"]) }),
  execute: async ({ city }) => `sunny in ${city}`,
});

await report("ai", {
  async chat() {
    expect((await generateText({ ...wish, maxOutputTokens: 24 })).text, "no text");
  },
  async stream() {
    const result = streamText({ ...wish, maxOutputTokens: 24, onError: ({ error }) => { throw error; } });
    let text = "";
    for await (const piece of result.textStream) text += piece;
    expect(text && (await result.usage).outputTokens, "no text or no count");
  },
  async tools() {
    const { steps } = await generateText({
      ...wish, maxOutputTokens: 200, tools: { weather }, stopWhen: stepCountIs(2),
      prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? "none" : "required" }),
    });
    expect(steps[0].toolResults[0].output.startsWith("sunny in"), "no result");
    expect(steps.length === 2, "the result was not sent back");
    const streamed = streamText({ ...wish, maxOutputTokens: 200, tools: { weather }, toolChoice: "required" });
    expect((await streamed.toolCalls)[0].toolName === "weather", "no call in the stream");
  },
  async structured_output() {
    const schema = z.object({ city: z.enum(["Paris", "Oslo"]), sunny: z.boolean() });
    const { object } = await generateObject({ ...wish, maxOutputTokens: 200, schema });
    expect(typeof object.sunny === "boolean", "no object");
  },
  async embeddings() {
    const many = await embedMany({ model: provider.textEmbeddingModel(model), values: ["one", "two"], maxRetries: 0 });
    expect(many.embeddings.length === 2, "not two");
  },
});
