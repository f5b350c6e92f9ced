import sys

from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI, OpenAIEmbeddings


@tool
def look_up(city: str) -> str:
    """Look up a city."""
    return city


question = "What is the capital of France?"
openai = ChatOpenAI(model="starter", base_url=f"{sys.argv[1]}/v1", api_key="none", temperature=0, max_tokens=8)
ollama = ChatOllama(model="starter", base_url=sys.argv[1], temperature=0, num_predict=8)
said = [chat.invoke(question).content for chat in (openai, ollama)]
assert said[0] == said[1] != "", said
for chat, whole in zip((openai, ollama), said, strict=True):
    assert "".join(part.content for part in chat.stream(question)) == whole
called = ChatOpenAI(model="starter", base_url=f"{sys.argv[1]}/v1", api_key="none", temperature=0, max_tokens=80)
(call,) = called.bind_tools([look_up], tool_choice="required").invoke("Look up Paris.").tool_calls[:1]
assert (call["name"], type(call["args"]["city"])) == ("look_up", str), call
for vectors in (
    OpenAIEmbeddings(model="starter", base_url=f"{sys.argv[1]}/v1", api_key="none", check_embedding_ctx_length=False),
    OllamaEmbeddings(model="starter", base_url=sys.argv[1]),
):
    assert len(vectors.embed_documents(["a", "b"])) == 2
print("all passed")
