// ik_llama.cpp's side of two measures that its llama-bench does not have, with the model mapped. One line of JSON:
//   ik-probe MODEL.gguf THREADS start STARTED_MS      seconds from STARTED_MS of the wall clock to the first token
//   ik-probe MODEL.gguf THREADS memory                GB that no file backs, and GB that files back, at 4,096 tokens
#include "llama.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

static double wall_ms() {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::milli>(now).count();
}

struct resident {
  double own, mapped;
};

static resident resident_gigabytes() {
  std::ifstream file("/proc/self/smaps_rollup");
  double whole = 0, anonymous = 0, huge = 0; // huge pages of hugetlbfs are in neither of the others
  for (std::string line; std::getline(file, line);) {
    double gigabytes = std::atof(line.c_str() + line.find(':') + 1) * 1024 / 1e9;
    auto is = [&](const char *field) { return line.rfind(field, 0) == 0; };
    if (is("Rss:")) whole = gigabytes;
    if (is("Anonymous:")) anonymous = gigabytes;
    if (is("Private_Hugetlb:") || is("Shared_Hugetlb:")) huge += gigabytes;
  }
  return {anonymous + huge, whole - anonymous};
}

int main(int count, char **words) {
  if (count < 4) return 2;
  const bool is_start = std::string(words[3]) == "start";
  const int threads = std::atoi(words[2]);
  llama_log_set([](ggml_log_level level, const char *text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
  }, nullptr);
  llama_backend_init();
  llama_model *model = llama_model_load_from_file(words[1], llama_model_default_params());
  if (!model) return 1;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = is_start ? 768 : 4096; // the contexts of the other sides
  params.n_threads = params.n_threads_batch = threads;
  params.flash_attn = true;
  llama_context *context = llama_init_from_model(model, params);
  if (!context) return 1;
  std::srand(1);
  std::vector<llama_token> tokens(is_start ? 50 : 512);
  const int ordinary = 199998;
  for (llama_token &token : tokens) token = 300 + std::rand() % (std::min(llama_n_vocab(model), ordinary) - 300);
  if (llama_decode(context, llama_batch_get_one(tokens.data(), tokens.size(), 0, 0))) return 1;
  const float *logits = llama_get_logits(context);
  volatile float first = logits[0]; // the token would be chosen here
  (void)first;
  if (is_start) std::printf("{\"start\":%.3f}\n", (wall_ms() - std::atof(words[4])) / 1000);
  else {
    resident r = resident_gigabytes();
    std::printf("{\"memory\":%.4f,\"memory-mapped\":%.4f}\n", r.own, r.mapped);
  }
  std::fflush(stdout);
  std::_Exit(0); // freeing takes seconds
}
