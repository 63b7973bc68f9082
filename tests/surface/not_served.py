"""What clients of the wire may ask for and Cupola does not serve: each answers 501 with a sentence.

Paths are relative to a project; `{openai}` stands for the four bases of the OpenAI client. Sources: control-plane.md
§2 and the newest SDK, whose every operation a test looks for here. What is served since drops out by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Group:
    """Operations of one kind, `<name>: <method> <path>`, and what to do instead."""

    title: str
    instead: str
    operations: Mapping[str, str]


GROUPS = (
    Group(
        "Models, files and vector stores of the OpenAI client",
        "Cupola hosts agents and no models; use the model's own endpoint",
        {
            "chat.completions.create": "POST {openai}/chat/completions",
            "embeddings.create": "POST {openai}/embeddings",
            "models.list": "GET {openai}/models",
            "files.create": "POST {openai}/files",
            "files.list": "GET {openai}/files",
            "files.content": "GET {openai}/files/{file}/content",
            "files.delete": "DELETE {openai}/files/{file}",
            "vector_stores.create": "POST {openai}/vector_stores",
            "vector_stores.delete": "DELETE {openai}/vector_stores/{store}",
            "vector_stores.files.create": "POST {openai}/vector_stores/{store}/files",
            "vector_stores.files.retrieve": "GET {openai}/vector_stores/{store}/files/{file}",
        },
    ),
    Group(
        "MCP of an agent's endpoint",
        "an agent answers by responses and invocations",
        {
            "mcp.call": "POST /agents/{agent}/endpoint/protocols/mcp",
        },
    ),
    Group(
        "More of agents",
        "versions are made from a definition or from code; the rest are services of Azure",
        {
            "agents.list_optimization_jobs": "GET /agent_optimization_jobs",
            "agents.create_optimization_job": "POST /agent_optimization_jobs",
            "agents.delete_optimization_job": "DELETE /agent_optimization_jobs/{jobId}",
            "agents.get_optimization_job": "GET /agent_optimization_jobs/{jobId}",
            "agents.list_optimization_candidates": "GET /agent_optimization_jobs/{jobId}/candidates",
            "agents.get_optimization_candidate": "GET /agent_optimization_jobs/{jobId}/candidates/{candidateId}",
            "agents.promote_optimization_candidate": "POST /agent_optimization_jobs/{jobId}/candidates/{candidateId}:promote",
            "agents.cancel_optimization_job": "POST /agent_optimization_jobs/{jobId}:cancel",
            "agents.estimate_optimization_job": "POST /agent_optimization_jobs:estimate",
            "agents.publish_to_microsoft365": "POST /agents/{agent}/microsoft365/publish",
            "agents.get_microsoft365_publish_defaults": "GET /agents/{agent}/microsoft365/publishdefaults",
            "agents.get_microsoft365_package": "POST /agents/{agent}/microsoft365/zip",
            "agents.create_version_from_manifest": "POST /agents/{agent}/versions:import",
            "agents.create_from_prompt": "POST /agents:generate",
            "agents.create_from_manifest": "POST /agents:import",
            "agents.update_from_manifest": "POST /agents/{agent}/import",
        },
    ),
    Group(
        "Connections",
        "they are made in Azure; give an agent its addresses and secrets in `environment_variables`",
        {
            "connections.list": "GET /connections",
            "connections.get": "GET /connections/{name}",
            "connections.get_with_credentials": "POST /connections/{name}/getConnectionWithCredentials",
        },
    ),
    Group(
        "Model deployments",
        "Cupola hosts agents and no models; point the agent at a model's endpoint in `environment_variables`",
        {
            "deployments.list": "GET /deployments",
            "deployments.get": "GET /deployments/{name}",
        },
    ),
    Group(
        "Toolboxes",
        "an agent reaches MCP servers by itself",
        {
            "toolboxes.list": "GET /toolboxes",
            "toolboxes.delete": "DELETE /toolboxes/{name}",
            "toolboxes.get": "GET /toolboxes/{name}",
            "toolboxes.update": "PATCH /toolboxes/{name}",
            "toolboxes.list_versions": "GET /toolboxes/{name}/versions",
            "toolboxes.create_version": "POST /toolboxes/{name}/versions",
            "toolboxes.delete_version": "DELETE /toolboxes/{name}/versions/{version}",
            "toolboxes.get_version": "GET /toolboxes/{name}/versions/{version}",
            "toolboxes.invoke_latest_toolbox_mcp": "POST /toolboxes/{name}:invoke_mcp",
            "toolboxes.mcp": "POST /toolboxes/{name}/mcp",
            "toolboxes.mcp_of_version": "POST /toolboxes/{name}/versions/{version}/mcp",
        },
    ),
    Group(
        "Skills",
        "put what an agent knows into its image or code",
        {
            "skills.list": "GET /skills",
            "skills.delete": "DELETE /skills/{name}",
            "skills.get": "GET /skills/{name}",
            "skills.update": "POST /skills/{name}",
            "skills.download": "GET /skills/{name}/content",
            "skills.list_versions": "GET /skills/{name}/versions",
            "skills.create": "POST /skills/{name}/versions",
            "skills.delete_version": "DELETE /skills/{name}/versions/{version}",
            "skills.get_version": "GET /skills/{name}/versions/{version}",
            "skills.download_version": "GET /skills/{name}/versions/{version}/content",
        },
    ),
    Group(
        "Memory stores",
        "conversations and previous responses are remembered; nothing is extracted from them",
        {
            "memory_stores.list": "GET /memory_stores",
            "memory_stores.create": "POST /memory_stores",
            "memory_stores.delete": "DELETE /memory_stores/{name}",
            "memory_stores.get": "GET /memory_stores/{name}",
            "memory_stores.update": "POST /memory_stores/{name}",
            "memory_stores.create_memory": "POST /memory_stores/{name}/items",
            "memory_stores.delete_memory": "DELETE /memory_stores/{name}/items/{memory_id}",
            "memory_stores.get_memory": "GET /memory_stores/{name}/items/{memory_id}",
            "memory_stores.update_memory": "POST /memory_stores/{name}/items/{memory_id}",
            "memory_stores.list_memories": "POST /memory_stores/{name}/items:list",
            "memory_stores.delete_scope": "POST /memory_stores/{name}:delete_scope",
            "memory_stores.search_memories": "POST /memory_stores/{name}:search_memories",
            "memory_stores.update_memories": "POST /memory_stores/{name}:update_memories",
        },
    ),
    Group(
        "Registered models",
        "Cupola hosts agents and no models",
        {
            "registered_models.list": "GET /models",
            "registered_models.list_versions": "GET /models/{name}/versions",
            "registered_models.delete": "DELETE /models/{name}/versions/{version}",
            "registered_models.get": "GET /models/{name}/versions/{version}",
            "registered_models.update": "PATCH /models/{name}/versions/{version}",
            "registered_models.pending_create_version": "POST /models/{name}/versions/{version}/createAsync",
            "registered_models.get_credentials": "POST /models/{name}/versions/{version}/credentials",
            "registered_models.pending_upload": "POST /models/{name}/versions/{version}/startPendingUpload",
        },
    ),
    Group(
        "Indexes",
        "search services are reached by the agent itself",
        {
            "indexes.list": "GET /indexes",
            "indexes.list_versions": "GET /indexes/{name}/versions",
            "indexes.delete": "DELETE /indexes/{name}/versions/{version}",
            "indexes.get": "GET /indexes/{name}/versions/{version}",
            "indexes.create_or_update": "PATCH /indexes/{name}/versions/{version}",
        },
    ),
    Group(
        "Datasets",
        "they serve evaluations, which Azure does",
        {
            "datasets.list_generation_jobs": "GET /data_generation_jobs",
            "datasets.create_generation_job": "POST /data_generation_jobs",
            "datasets.delete_generation_job": "DELETE /data_generation_jobs/{jobId}",
            "datasets.get_generation_job": "GET /data_generation_jobs/{jobId}",
            "datasets.cancel_generation_job": "POST /data_generation_jobs/{jobId}:cancel",
            "datasets.list": "GET /datasets",
            "datasets.list_versions": "GET /datasets/{name}/versions",
            "datasets.delete": "DELETE /datasets/{name}/versions/{version}",
            "datasets.get": "GET /datasets/{name}/versions/{version}",
            "datasets.create_or_update": "PATCH /datasets/{name}/versions/{version}",
            "datasets.get_credentials": "POST /datasets/{name}/versions/{version}/credentials",
            "datasets.pending_upload": "POST /datasets/{name}/versions/{version}/startPendingUpload",
        },
    ),
    Group(
        "Evaluators",
        "Azure evaluates",
        {
            "evaluators.list_generation_jobs": "GET /evaluator_generation_jobs",
            "evaluators.create_generation_job": "POST /evaluator_generation_jobs",
            "evaluators.delete_generation_job": "DELETE /evaluator_generation_jobs/{jobId}",
            "evaluators.get_generation_job": "GET /evaluator_generation_jobs/{jobId}",
            "evaluators.cancel_generation_job": "POST /evaluator_generation_jobs/{jobId}:cancel",
            "evaluators.list": "GET /evaluators",
            "evaluators.list_versions": "GET /evaluators/{name}/versions",
            "evaluators.create_version": "POST /evaluators/{name}/versions",
            "evaluators.delete_version": "DELETE /evaluators/{name}/versions/{version}",
            "evaluators.get_version": "GET /evaluators/{name}/versions/{version}",
            "evaluators.update_version": "PATCH /evaluators/{name}/versions/{version}",
            "evaluators.get_credentials": "POST /evaluators/{name}/versions/{version}/credentials",
            "evaluators.pending_upload": "POST /evaluators/{name}/versions/{version}/startPendingUpload",
        },
    ),
    Group(
        "Evaluation rules",
        "Azure evaluates",
        {
            "evaluation_rules.list": "GET /evaluationrules",
            "evaluation_rules.delete": "DELETE /evaluationrules/{id}",
            "evaluation_rules.get": "GET /evaluationrules/{id}",
            "evaluation_rules.create_or_update": "PUT /evaluationrules/{id}",
        },
    ),
    Group(
        "Evaluation taxonomies",
        "Azure evaluates",
        {
            "evaluation_taxonomies.list": "GET /evaluationtaxonomies",
            "evaluation_taxonomies.delete": "DELETE /evaluationtaxonomies/{name}",
            "evaluation_taxonomies.get": "GET /evaluationtaxonomies/{name}",
            "evaluation_taxonomies.update": "PATCH /evaluationtaxonomies/{name}",
            "evaluation_taxonomies.create": "PUT /evaluationtaxonomies/{name}",
        },
    ),
    Group(
        "Insights",
        "Azure evaluates",
        {
            "insights.list": "GET /insights",
            "insights.generate": "POST /insights",
            "insights.get": "GET /insights/{id}",
        },
    ),
    Group(
        "Monitors",
        "Azure evaluates",
        {
            "agent_insight_monitors.list": "GET /agent_insight_monitors",
            "agent_insight_monitors.create": "POST /agent_insight_monitors",
            "agent_insight_monitors.delete": "DELETE /agent_insight_monitors/{monitor}",
            "agent_insight_monitors.get": "GET /agent_insight_monitors/{monitor}",
            "agent_insight_monitors.update": "PATCH /agent_insight_monitors/{monitor}",
            "agent_insight_monitors.list_insights": "GET /agent_insight_monitors/{monitor}/insights",
            "agent_insight_monitors.get_insight": "GET /agent_insight_monitors/{monitor}/insights/{insight}",
            "agent_insight_monitors.update_insight": "PATCH /agent_insight_monitors/{monitor}/insights/{insight}",
            "agent_insight_monitors.list_runs": "GET /agent_insight_monitors/{monitor}/runs",
            "agent_insight_monitors.create_run": "POST /agent_insight_monitors/{monitor}/runs",
            "agent_insight_monitors.get_run": "GET /agent_insight_monitors/{monitor}/runs/{run}",
            "agent_insight_monitors.cancel_run": "POST /agent_insight_monitors/{monitor}/runs/{run}:cancel",
            "agent_insight_monitors.reset": "POST /agent_insight_monitors/{monitor}:reset",
        },
    ),
    Group(
        "Red teams",
        "Azure evaluates",
        {
            "red_teams.list": "GET /redTeams/runs",
            "red_teams.get": "GET /redTeams/runs/{name}",
            "red_teams.create": "POST /redTeams/runs:run",
        },
    ),
    Group(
        "Routines",
        "call the agent's endpoint from your own scheduler",
        {
            "routines.list": "GET /routines",
            "routines.delete": "DELETE /routines/{routine_name}",
            "routines.get": "GET /routines/{routine_name}",
            "routines.create_or_update": "PUT /routines/{routine_name}",
            "routines.list_runs": "GET /routines/{routine_name}/runs",
            "routines.disable": "POST /routines/{routine_name}:disable",
            "routines.dispatch": "POST /routines/{routine_name}:dispatch_async",
            "routines.enable": "POST /routines/{routine_name}:enable",
        },
    ),
    Group(
        "Schedules",
        "call the agent's endpoint from your own scheduler",
        {
            "schedules.list": "GET /schedules",
            "schedules.delete": "DELETE /schedules/{id}",
            "schedules.get": "GET /schedules/{id}",
            "schedules.create_or_update": "PUT /schedules/{id}",
            "schedules.list_runs": "GET /schedules/{id}/runs",
            "schedules.get_run": "GET /schedules/{schedule_id}/runs/{run}",
        },
    ),
    Group(
        "Voice conversations",
        "voice is a service of Azure",
        {
            "voice_agents.conversations.list": "GET /agents/{agent}/endpoint/protocols/voice/conversations",
            "voice_agents.conversations.delete": "DELETE /agents/{agent}/endpoint/protocols/voice/conversations/{conversation}",
            "voice_agents.conversations.get": "GET /agents/{agent}/endpoint/protocols/voice/conversations/{conversation}",
            "voice_agents.conversations.get_audio": "GET /agents/{agent}/endpoint/protocols/voice/conversations/{conversation}/audio",
            "voice_agents.conversations.download_audio": "GET /agents/{agent}/endpoint/protocols/voice/conversations/{conversation}/audio/content",
            "voice_agents.conversations.list_items": "GET /agents/{agent}/endpoint/protocols/voice/conversations/{conversation}/items",
            "voice_agents.conversations.get_item": "GET /agents/{agent}/endpoint/protocols/voice/conversations/{conversation}/items/{item}",
            "voice_agents.conversations.get_audio_item": "GET /agents/{agent}/endpoint/protocols/voice/conversations/{conversation}/items/{item}/audio",
            "voice_agents.conversations.download_audio_item": "GET /agents/{agent}/endpoint/protocols/voice/conversations/{conversation}/items/{item}/audio/content",
            "voice_agents.conversations.download_generated_audio_item": "GET /agents/{agent}/endpoint/protocols/voice/conversations/{conversation}/items/{item}/audio/generated/content",
            "voice_agents.conversations.list_responses": "GET /agents/{agent}/endpoint/protocols/voice/conversations/{conversation}/responses",
            "voice_agents.conversations.get_response": "GET /agents/{agent}/endpoint/protocols/voice/conversations/{conversation}/responses/{response}",
            "voice_agents.conversations.list_response_items": "GET /agents/{agent}/endpoint/protocols/voice/conversations/{conversation}/responses/{response}/items",
        },
    ),
    Group(
        "Telephony",
        "voice is a service of Azure",
        {
            "voice_agents.telephony.list_bindings": "GET /agents/{agent}/telephony/bindings",
            "voice_agents.telephony.create_binding": "POST /agents/{agent}/telephony/bindings",
            "voice_agents.telephony.delete_binding": "DELETE /agents/{agent}/telephony/bindings/{binding}",
            "voice_agents.telephony.get_binding": "GET /agents/{agent}/telephony/bindings/{binding}",
            "voice_agents.telephony.update_binding": "PATCH /agents/{agent}/telephony/bindings/{binding}",
            "voice_agents.telephony.create_call_job": "POST /agents/{agent}/telephony/call_jobs",
            "voice_agents.telephony.get_call_job": "GET /agents/{agent}/telephony/call_jobs/{call_job}",
            "voice_agents.telephony.cancel_call_job": "POST /agents/{agent}/telephony/call_jobs/{call_job}:cancel",
            "voice_agents.telephony.list_calls": "GET /agents/{agent}/telephony/calls",
            "voice_agents.telephony.get_call": "GET /agents/{agent}/telephony/calls/{call}",
            "voice_agents.telephony.end_call": "POST /agents/{agent}/telephony/calls/{call}:end",
            "voice_agents.telephony.transfer_call": "POST /agents/{agent}/telephony/calls/{call}:transfer",
            "voice_agents.telephony.get_transfer_targets": "GET /agents/{agent}/telephony/transfer_targets",
            "voice_agents.telephony.replace_transfer_targets": "PUT /agents/{agent}/telephony/transfer_targets",
        },
    ),
)
