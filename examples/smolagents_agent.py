"""smolagents: needs mcp<2, so install it in another environment than this server."""

import os
import sys

from mcp import StdioServerParameters
from smolagents import OpenAIServerModel, ToolCallingAgent, ToolCollection

server = StdioServerParameters(command="letta-conversations-mcp", env=dict(os.environ))
model = OpenAIServerModel(os.environ.get("MODEL", "gpt-5-mini"))

if __name__ == "__main__":
    with ToolCollection.from_mcp(server, trust_remote_code=True, structured_output=False) as letta:
        # smolagents refuses a call that leaves out an argument, unless the argument is marked like this.
        for schema in (each for tool in letta.tools for each in tool.inputs.values()):
            schema["nullable"] = True
        print(ToolCallingAgent(tools=[*letta.tools], model=model).run(sys.argv[1]))
