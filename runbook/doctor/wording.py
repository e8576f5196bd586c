"""The words by which a log's lines are told apart: regular expressions, one meaning each."""

import re


def any_of(*patterns: str) -> re.Pattern[str]:
    """Return a pattern that matches where one of these does."""
    return re.compile("|".join(patterns))


READY = "Application startup complete"
SUFFIX = (
    r"(?:Error|Exception|Failure|Failed|Fault|Timeout|Interrupt|Exit|Abort|Unavailable|NotFound|Refused|Group|Invalid)"
)
START = any_of(
    r"^==> ",
    r"^ +\$ \S*/?vllm serve ",
    r"non-default args: ",
)
STOP = any_of(
    r"\bshutdown triggered",
    r"received signal=SIG(?!KILL)",
    r"^KeyboardInterrupt",
    r"Received (?:signal )?SIG(?:INT|TERM)",
    r"^Shutting down$",
    r"^\^C",
)
SERVES = any_of(
    r"Application startup complete",
    r'HTTP/1\.\d" 2\d\d',
    r"Avg prompt throughput:",
)
VLLM = any_of(
    r"vllm serve ",
    r"non-default args: ",
    r"Resolved architecture",
    r"V1 LLM engine",
    r"Started server process",
    r"/vllm/",
    r"vllm\.",
)
TRACEBACK = re.compile(r"^\s*(?:[+|] )*(?:Exception Group |[^\"']{0,200}: )?Traceback \(most recent call last\):")
FRAME = re.compile(r'^\s*File "([^"]*)", line (\d+)(?:, in (.+))?$')
CHAINED = re.compile(r"^\s*(?:During handling of the above|The above exception was the direct cause)")
GROUP = re.compile(r"^\s*(?:\| ?|\+-[+ -]*[\d-]* ?-*\s?)+")
EXCEPTION = re.compile(
    rf"^(?:Error: |Caused by: )?((?:[A-Za-z_]\w*\.)*(?:[A-Z]\w*{SUFFIX}\w*|NVMLError\w*))"
    r"(\(.*\))?(?:: ?(.*)|\s*)$"
)
ANY_EXCEPTION = re.compile(r"^[A-Za-z_][\w.<>]*(?:: .*|:?\s*)$")
NESTED = any_of(rf"^\s*(?:[A-Za-z_]\w*\.)*[A-Z]\w*{SUFFIX}\w*: \S", r"^\s*Value error, ")
COMPILER = any_of(
    r"^(?:nvcc|ptxas|nvlink|cicc|cudafe\+\+)\s+(?:fatal|error)\s*:",
    r"^\S+[:(]\d+[:)](?:\d+:)?\s*(?:fatal |catastrophic )?error\b ?[:#]",
    r"^(?:\S*/)?(?:ld|gcc|g\+\+|cc1plus|cc1|cc|c\+\+|clang|as)(?:\.\w+)"
    r"?: .*(?:cannot find|error:|No such file|undefined|not found|fatal)",
    r"^(?:/bin/)?(?:sh|bash|env): (?:\d+: |line \d+: )?\S*(?:nvcc|"
    r"ninja|gcc|g\+\+|cc|ptxas|cmake)\S*: (?:command )?[Nn]ot found",
    r"^CMake Error\b",
    r"^fatal error: ",
    r"^error: command ",
    r"undefined reference to",
    r"^ninja: (?:error|fatal): ",
    r"^(?:Error|error): ptxas",
    r"^\S+: error: ",
)
COMPILER_ECHO = any_of(
    r"^ninja: build stopped",
    r"^collect2: error",
    r"^FAILED: ",
    r"^make(?:\[\d+\])?: \*\*\*",
    r"returned non-zero exit",
)
SIGNAL = any_of(
    r"\b(?:Illegal instruction|Segmentation fault|Bus error|Aborted)\b\s*(?:\(core dumped\)|$|\S+ )",
    r"^(?:\S+: line \d+: +\d+ )?Killed\b",
    r"Segfault encountered",
    r"^Fatal Python error: ",
    r"SIG(?:SEGV|ABRT|BUS|ILL|FPE)\b",
    r"Signals?\.SIG(?:KILL|SEGV|ABRT|ILL|BUS)",
    r"terminate called after throwing",
    r"what\(\):  ",
    r"(?:free|malloc)\(\): ",
    r"double free or corruption",
    r"corrupted (?:size|double)",
    r"OOMKilled",
    r"Out of memory: Killed process",
    r"Memory cgroup out of memory",
    r"oom-kill",
    r"segfault at ",
    r"traps: .* (?:trap|invalid)",
    r"NVRM: Xid",
    r"exit(?:ed with)?[ _-]?(?:code|status)[:= ]*(?:-9|-11|-4|-6|-7|137|139|132|134)\b",
    r"exit code: SIG",
    r"stack smashing detected",
    r"core dumped",
)
# Errors that only repeat that something else failed.
ECHO = any_of(
    r"Engine core initialization failed",
    r"See root cause above",
    r"WorkerProc initialization failed",
    r"EngineCore failed to start",
    r"WorkerProc failed to start",
    r"WorkerProc hit an exception",
    r"EngineCore encountered (?:a fatal error|an issue)",
    r"EngineCore hit an exception",
    r"AsyncLLM output_handler failed",
    r"Executor failed\.",
    r"EngineDeadError",
    r"EngineGenerateError",
    r"[Ww]orker proc .* died unexpectedly",
    r"Engine core proc .* died unexpectedly",
    r"Failed core proc",
    r"Error executing method",
    r"Engine process \(pid \d+\) died",
    r"Engine is (?:already )?dead",
    r"Engine (?:process|loop) (?:failed to start|is not running|is dead|has died|is already dead)",
    r"AsyncEngineDeadError",
    r"MQEngineDeadError",
    r"Background loop (?:has errored|is stopped)",
    r"Engine background task failed",
    r"Got error from engine",
    r"ASGI callable returned without",
    r"Exception in ASGI application",
    r"Application startup failed",
    r"^Process \S+:$",
    r"Traceback \(most recent",
    r"ChildFailedError",
    r"Error in (?:model execution|call to collective_rpc)",
    r"cancelled",
    r"Dumping (?:input data|scheduler)",
    r"V1 LLM engine .* config",
    r"Task exception was never retrieved",
    r"Future exception was never retrieved",
    r"Exception in (?:thread|callback|worker)",
    r"shutting down(?: executor)?\.?$",
    r"force killing",
    r"leaked \w+ objects",
    r"destroy_process_group",
    r"Invoking remote function",
    r"GPU OOM recovery",
    r"^Error happened",
    r"For debugging consider",
    r"Compile with",
    r"CUDA kernel errors might",
    r"uncaught (?:worker )?exception$",
    r"Error occurred during (?:initialization|engine)",
    r"response error$",
    r"subprocess-exited-with-error",
    r"metadata-generation-failed",
    r"legacy-install-failure",
    r"Failed (?:building|to build)",
    r"did not run successfully",
    r"Encountered error while",
    r"The build backend returned an error",
    r"Call to .* failed",
    r"fatal signal from worker",
    r"[Ss]ee stack trace above",
    r"^exit code: ",
    r"^Worker failed with error",
    r"Batch failed with error",
    r"^Error details:",
    r"LLM call failed:?$",
)
ABORTED = re.compile(r"(?:died|exited|terminated).*exit(?:ed with)?[ _-]?(?:code|status)[:= ]*(?:-6|134)\b")
ECHO_TYPES = re.compile(
    r"^(?:[\w.]+\.)?(?:KeyboardInterrupt|SystemExit|CancelledError|EngineDeadError|RayTaskError|GeneratorExit|"
    r"ExceptionGroup|BaseExceptionGroup|ChildFailedError|MQEngineDeadError|AsyncEngineDeadError|EngineGenerateError|"
    r"ProcessRaisedException)$"
)
# Errors of a process whose peer went: another process tells why.
PEER = any_of(
    r"Connection (?:closed|reset) by peer",
    r"connection closed",
    r"remote process exited",
    r"Broken pipe",
    r"EOFError",
    r"BrokenPipeError",
    r"ConnectionResetError",
    r"Connection refused",
    r"TCPStore",
    r"sendBytes failed",
    r"recvValue failed",
    r"wait timeout after",
    r"Watchdog caught",
    r"ncclRemoteError",
    r"ActorDiedError",
    r"The actor (?:is dead|died)",
    r"RPC call to",
    r"worker died",
    r"process \d+ terminated",
    r"Some NCCL operations have failed",
    r"failed to be sent",
    r"Process group watchdog",
    r"Aborted!?$",
)
HANDLED = any_of(
    r"^Exception ignored in",
    r"Ignoring ",
    r"ignored\b",
    r"^Failed to load plugin",
    r"will be (?:skipped|ignored)",
)
# An import that failed with a WARNING, and the later error that it leads to.
FATAL_WARNING = re.compile(
    r"Failed to import (?:from )?\S*vllm\S*.*?(?:ImportError|ModuleNotFoundError|OSError|with)\W?(.*)"
)
LATE = any_of(
    r"torch::class_",
    r"_OpNamespace",
    r"object has no attribute",
    r"No module named 'vllm\._",
    r"is not defined",
    r"could not find op",
    r"not registered",
)
STATEMENT = any_of(
    r"^[Ee]rror:? ",
    r"^ERROR\b",
    r"^[Ff]atal:? ",
    r"^FATAL\b",
    r"^✗ ",
    r"^× ",
    r"^docker: ",
    r"^Error response from daemon",
    r"^Cannot ",
    r"^Could not ",
    r"^Failed to ",
    r"^failed to ",
    r"^Unable to ",
    r"^E: ",
    r"^npm ERR",
    r"^usage error",
    r"^RuntimeError",
    r"^panic: ",
    r"^\*\*ERROR\*\*",
    r"^.*\*\*ERROR\*\*",
    r"^Fail to ",
    r"^Timeout accessing ",
    r"^[A-Z][\w ()/.-]{0,60}(?:failed: |not authorized)",
    r"^OpenBLAS blas_thread_init",
    r"^\S+: error: ",
    r"^\S+: (?:symbol lookup error|error while loading)",
    r"^curl: \(\d+\)",
    r"^wget: ",
    r"^.*: No such file or directory$",
    r"^.*: command not found$",
    r"^.*: Permission denied$",
    r"^NCCL WARN",
    r"^NVIDIA-SMI has failed",
    r"^Failed to initialize NVML",
    r"^.*nvidia-container-cli",
    r"^Traceback",
)
SUSPECT = any_of(
    r"失败|错误|异常|无法|拒绝",
    r"\b[Ee]rrors?\b",
    r"\bERRORS?\b",
    r"\b[Ff]ail(?:ed|ure)\b",
    r"\bFAIL(?:ED)?\b",
    r"\b[Ff]atal\b",
    r"\b[Ee]xceptions?\b",
    r"\b[Dd]enied\b",
    r"\b[Rr]efused\b",
    r"\b[Tt]im(?:ed|ing) out\b",
    r"\b[Tt]imeout\b",
    r"\b\w*[a-z](?:Error|Exception)\b",
    r"\bTraceback\b",
    r"\b[Pp]anic(?:ked)?\b",
    r"\b[Dd]ied\b",
    r"\b[Kk]illed\b",
    r"\b[Oo]ut of memory\b",
    r"\b[Cc]annot\b",
    r"\b[Uu]nable to\b",
    r"\b[Nn]ot (?:found|supported|enough)\b",
    r"\b[Nn]o such\b",
    r"\b[Ii]nvalid\b",
    r"\b[Cc]rash\w*\b",
    r"\b[Aa]bort\w*\b",
    r"\b[Kk]illed\b",
    r"\bunexpectedly\b",
    r"\bDO NOT MATCH\b",
)
# With a reason, as runbook.server.middleware logs it.
REQUEST = re.compile(
    r'"(?P<what>[A-Z]+ (?P<path>/[^ ?"]*)[^"]*) HTTP(?:/[\d.]+)?" (?P<status>[45]\d\d)(?:: (?P<reason>.+))?'
)
BODY = any_of(
    r"Error code: (?P<code>[45]\d\d)",
    r"'(?:code|status_code)': (?P<number>[45]\d\d)",
    r"\"code\": ?(?P<json>[45]\d\d)",
    r"HTTP(?: status)?(?: code)?[ :]+(?P<status>[45]\d\d)\b",
)
SCANNED = any_of(
    r"favicon",
    r"robots\.txt",
    r"\.(?:php|env|git|ico|txt|xml)\b",
    r"^/$",
    r"^/v1/?$",
    r"/tokenize$",
    r"apple-touch",
    r"/\.well-known",
)
WAITING = any_of(
    r"No available shared memory broadcast block found",
    r"Waiting for \d+ (?:local|remote|core)",
    r"Did not finish loading",
)
PROGRESS = any_of(
    r"vLLM is using nccl",
    r"Resolved architecture",
    r"V1 LLM engine",
    r"[Ll]oad(?:ing)? (?:model|weights|safetensors)",
    r"torch\.compile",
    r"Warming up",
    r"KV cache",
    r"Capturing CUDA graph",
    r"custom_all_reduce",
    r"init_process_group",
    r"world_size=",
    r"Starting vLLM server",
    r"backend=nccl",
)
CAUSED = re.compile(r"^\s*(?:Caused by:|[├╰]─[▶>]|│)\s*(.*)")  # the chain of causes as uv and pip write it
