"""Asks a served run by LangChain's and LlamaIndex's clients, in an environment of their own: `make test-clients`.

Arguments: address, token, model, question. Prints what each says, as JSON.
"""

import json
import sys

from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

url, token, model, question = sys.argv[1:]
chain = ChatOpenAI(base_url=url, api_key=token, model=model)
message = chain.invoke([("system", "Be brief."), ("user", question)])
index = OpenAILike(
    api_base=url, api_key=token, model=model, temperature=0, is_chat_model=True, context_window=512, max_retries=0
)
chat = index.chat([ChatMessage(role="user", content=question)])
said = {
    "langchain": message.content,
    "langchain stream": "".join(piece.content for piece in chain.stream(question)),
    "llama_index": chat.message.content,
    "llama_index complete": index.complete(question).text,
    "llama_index stream": "".join(piece.delta or "" for piece in index.stream_complete(question)),
}
documents = [document["title"] for document in chat.raw.ragdist["documents"]]
tokens = message.response_metadata["token_usage"]["completion_tokens"]
json.dump({"said": said, "documents": documents, "tokens": tokens}, sys.stdout)
