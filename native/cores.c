#define _GNU_SOURCE
#include "cores.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#endif
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

enum { PATH_LENGTH = 4096 };

/* ---- small files */

/* The file at root + path, its first line (without the newline); false where it cannot be read. */
static bool read_line(const char *root, const char *path, char *line, int size) {
  char whole[PATH_LENGTH];
  if (snprintf(whole, sizeof whole, "%s%s", root, path) >= (int)sizeof whole) return false;
  FILE *file = fopen(whole, "re");
  if (file == NULL) return false;
  bool read = fgets(line, size, file) != NULL;
  fclose(file);
  if (read) line[strcspn(line, "\n")] = 0;
  return read;
}

static double read_number(const char *root, const char *path) {
  char line[64], *end;
  if (!read_line(root, path, line, sizeof line)) return NAN;
  double number = strtod(line, &end);
  return end == line ? NAN : number;
}

/* A list such as 0-3,8,10-11. False where there is none. */
static bool read_cpu_list(const char *root, const char *path, bool *set) {
  char line[PATH_LENGTH];
  if (!read_line(root, path, line, sizeof line)) return false;
  memset(set, 0, MAX_CPUS * sizeof *set);
  bool any = false;
  for (char *at = line, *end; *at != 0; at = *end == ',' ? end + 1 : end) {
    long from = strtol(at, &end, 10), to = from;
    if (end == at) break;
    if (*end == '-') to = strtol(end + 1, &end, 10);
    for (long cpu = from; cpu >= 0 && cpu <= to && cpu < MAX_CPUS; cpu++) set[cpu] = any = true;
    if (*end != ',' && *end != 0) break;
  }
  return any;
}

static double cpu_number(const char *root, int cpu, const char *name) {
  char path[128];
  snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/%s", cpu, name);
  return read_number(root, path);
}

/* ---- control groups */

static double quota_v2(const char *root, const char *folder) {
  char path[PATH_LENGTH], line[128];
  double quota, period;
  if (snprintf(path, sizeof path, "%s/cpu.max", folder) >= (int)sizeof path) return INFINITY;
  if (!read_line(root, path, line, sizeof line)) return INFINITY;
  if (sscanf(line, "%lf %lf", &quota, &period) != 2) return INFINITY; /* "max 100000" */
  return period > 0 ? quota / period : INFINITY;
}

static double quota_v1(const char *root, const char *folder) {
  char path[PATH_LENGTH];
  if (snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder) >= (int)sizeof path) return INFINITY;
  double quota = read_number(root, path);
  if (snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder) >= (int)sizeof path) return INFINITY;
  double period = read_number(root, path);
  return quota > 0 && period > 0 ? quota / period : INFINITY;
}

/* The least quota of a group and of those around it, up to where the hierarchy is mounted. */
static double least_quota(const char *root, const char *mount, const char *group,
                          double (*quota)(const char *, const char *)) {
  char folder[PATH_LENGTH];
  if (snprintf(folder, sizeof folder, "%s%s", mount, strcmp(group, "/") == 0 ? "" : group) >= (int)sizeof folder) {
    return quota(root, mount);
  }
  size_t top = strlen(mount);
  double least = INFINITY;
  for (;;) {
    least = fmin(least, quota(root, folder));
    char *slash = strrchr(folder, '/');
    if (strlen(folder) <= top || slash == NULL || slash < folder + top) return least;
    *slash = 0;
  }
}

static bool has_word(const char *list, const char *word) {
  size_t length = strlen(word);
  for (const char *at = list; at != NULL; at = strchr(at, ','), at = at != NULL ? at + 1 : NULL) {
    if (strncmp(at, word, length) == 0 && (at[length] == ',' || at[length] == 0 || at[length] == '\n')) return true;
  }
  return false;
}

/* The group of this process in the hierarchy that holds the cpu controller (v1), or in the unified one (v2). */
static bool find_group(const char *root, bool v2, char *group, size_t size) {
  char path[PATH_LENGTH], line[PATH_LENGTH];
  snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
  FILE *file = fopen(path, "re");
  if (file == NULL) return false;
  bool found = false;
  while (!found && fgets(line, sizeof line, file) != NULL) {
    line[strcspn(line, "\n")] = 0;
    char *controllers = strchr(line, ':'), *name = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
    if (name == NULL) continue;
    *name++ = 0;
    found = v2 ? strncmp(line, "0::", 2) == 0 && controllers[1] == 0 : has_word(controllers + 1, "cpu");
    if (found) snprintf(group, size, "%s", name);
  }
  fclose(file);
  return found;
}

/* A line of mountinfo: number, parent, device, root, mount point, options, …, "-", type, source, options of the
 * type. */
static double quota_of(const char *root, bool v2) {
  char group[PATH_LENGTH], path[PATH_LENGTH], line[PATH_LENGTH];
  if (!find_group(root, v2, group, sizeof group)) return INFINITY;
  snprintf(path, sizeof path, "%s/proc/self/mountinfo", root);
  FILE *file = fopen(path, "re");
  if (file == NULL) return INFINITY;
  double least = INFINITY;
  while (fgets(line, sizeof line, file) != NULL) {
    char inner[1024], mount[1024], type[64], options[512];
    char *dash = strstr(line, " - ");
    if (dash == NULL || sscanf(line, "%*s %*s %*s %1023s %1023s", inner, mount) != 2) continue;
    if (sscanf(dash, " - %63s %*s %511s", type, options) != 2) continue;
    if (v2 ? strcmp(type, "cgroup2") != 0 : strcmp(type, "cgroup") != 0 || !has_word(options, "cpu")) continue;
    /* A container may see only the part below `inner`, its own group or one around it. */
    size_t skip = strcmp(inner, "/") == 0 ? 0 : strlen(inner);
    bool inside = strncmp(group, inner, skip) == 0;
    least = fmin(least, least_quota(root, mount, inside ? group + skip : "", v2 ? quota_v2 : quota_v1));
  }
  fclose(file);
  return least;
}

/* ---- cores */

static void keep(bool *set, const bool *which) {
  bool any = false;
  for (int cpu = 0; cpu < MAX_CPUS; cpu++) any |= set[cpu] && which[cpu];
  for (int cpu = 0; any && cpu < MAX_CPUS; cpu++) set[cpu] = set[cpu] && which[cpu];
}

/* Keeps the processors that have at least `share` of the best one's figure, if all have one. */
static void keep_fast(const char *root, bool *set, const char *figure, double share) {
  double best = 0;
  bool fast[MAX_CPUS] = {false};
  for (int cpu = 0; cpu < MAX_CPUS; cpu++) {
    if (!set[cpu]) continue;
    double value = cpu_number(root, cpu, figure);
    if (isnan(value)) return;
    best = fmax(best, value);
  }
  for (int cpu = 0; cpu < MAX_CPUS; cpu++) fast[cpu] = set[cpu] && cpu_number(root, cpu, figure) >= share * best;
  keep(set, fast);
}

/* Threads that wait for each other run at the pace of the slowest core. Arm's efficient cores have less than half of
 * the largest capacity; elsewhere they are told by their clock, of which favoured cores have some percent more than
 * their like. */
static void keep_performance_cores(const char *root, bool *set) {
  bool intel[MAX_CPUS];
  if (read_cpu_list(root, "/sys/devices/cpu_core/cpus", intel)) {
    keep(set, intel);
    return;
  }
  keep_fast(root, set, "cpu_capacity", 0.5);
  keep_fast(root, set, "cpufreq/cpuinfo_max_freq", 0.7);
}

void find_cores(const char *root, const bool *mask, cores *c) {
  bool set[MAX_CPUS], siblings[MAX_CPUS];
  memcpy(set, mask, sizeof set);
  keep_performance_cores(root, set);
  memset(c->core_of, 0xff, sizeof c->core_of);
  c->num_cores = 0;
  for (int cpu = 0; cpu < MAX_CPUS; cpu++) {
    if (!set[cpu] || c->core_of[cpu] >= 0) continue;
    c->core_of[cpu] = (int16_t)c->num_cores;
    char path[128];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    if (read_cpu_list(root, path, siblings)) {
      for (int other = cpu + 1; other < MAX_CPUS; other++) {
        if (siblings[other] && set[other]) c->core_of[other] = (int16_t)c->num_cores;
      }
    }
    c->num_cores++;
  }
  if (c->num_cores == 0) c->num_cores = 1;
  c->quota = fmin(quota_of(root, false), quota_of(root, true));
}

bool affinity_mask(bool *mask) {
  memset(mask, 0, MAX_CPUS * sizeof *mask);
#ifdef __linux__
  cpu_set_t *set = CPU_ALLOC(MAX_CPUS);
  size_t size = CPU_ALLOC_SIZE(MAX_CPUS);
  if (set == NULL) return false;
  bool known = sched_getaffinity(0, size, set) == 0;
  for (int cpu = 0; known && cpu < MAX_CPUS; cpu++) mask[cpu] = CPU_ISSET_S(cpu, size, set);
  CPU_FREE(set);
  return known;
#else
  int32_t count = 0;
#ifdef __APPLE__
  size_t size = sizeof count;
  if (sysctlbyname("hw.perflevel0.physicalcpu", &count, &size, NULL, 0) != 0) count = 0;
#endif
  if (count <= 0) count = (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
  for (int cpu = 0; cpu < count && cpu < MAX_CPUS; cpu++) mask[cpu] = true;
  return false;
#endif
}

/* A fraction of a processor is left to the rest of the process: threads that overdraw the quota are all halted
 * together, for tens of milliseconds. */
int default_threads(const cores *c) {
  int allowed = c->quota < c->num_cores ? (int)c->quota : c->num_cores;
  return allowed < 1 ? 1 : allowed;
}

/* Every size-th core: two threads that wake each other would otherwise be put on one core and wait there for each
 * other, and with more cores than threads the system still chooses a free one. */
void stay_on_share(const cores *c, int rank, int size) {
#ifdef __linux__
  cpu_set_t *set = CPU_ALLOC(MAX_CPUS);
  size_t bytes = CPU_ALLOC_SIZE(MAX_CPUS);
  if (set == NULL) return;
  CPU_ZERO_S(bytes, set);
  for (int cpu = 0; cpu < MAX_CPUS; cpu++) {
    if (c->core_of[cpu] >= 0 && c->core_of[cpu] % size == rank) CPU_SET_S(cpu, bytes, set);
  }
  sched_setaffinity(0, bytes, set);
  CPU_FREE(set);
#else
  (void)c, (void)rank, (void)size;
#endif
}
