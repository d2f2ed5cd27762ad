/* Numbers as a person reads them: three significant digits, a unit on each. */
#include <math.h>

#include "summary_priv.h"

void ss_put_significant(struct ss_buf *out, double x)
{
  double a = fabs(x);

  ss_buf_addf(out,
              a >= 100 || a == 0 ? "%.0f"
              : a >= 10          ? "%.1f"
              : a >= 1           ? "%.2f"
                                 : "%.3f",
              x);
}

void ss_put_seconds(struct ss_buf *out, uint64_t ns)
{
  double s = (double)ns / 1e9;

  if (s >= 100 && s < 1000)
    ss_buf_addf(out, "%.1f", s);
  else
    ss_put_significant(out, s);
}

void ss_put_duration(struct ss_buf *out, double s)
{
  if (s < 60) {
    ss_put_significant(out, s);
    ss_buf_adds(out, " s");
    return;
  }
  uint64_t tenths = (uint64_t)llround(s * 10), whole = tenths / 10;
  if (whole >= 3600)
    ss_buf_addf(out, "%llu:%02llu:%02llu", (unsigned long long)(whole / 3600),
                (unsigned long long)(whole / 60 % 60), (unsigned long long)(whole % 60));
  else
    ss_buf_addf(out, "%llu:%02llu", (unsigned long long)(whole / 60),
                (unsigned long long)(whole % 60));
  if (whole < 3600 && tenths % 10)
    ss_buf_addf(out, ".%llu", (unsigned long long)(tenths % 10));
}

void ss_put_count(struct ss_buf *out, uint64_t n)
{
  static const struct {
    double from, unit;
    const char *name;
  } units[] = {{999.5e6, 1e9, " G"}, {999.5e3, 1e6, " M"}, {10e3, 1e3, " k"}};

  for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
    if ((double)n >= units[i].from) {
      ss_put_significant(out, (double)n / units[i].unit);
      ss_buf_adds(out, units[i].name);
      return;
    }
  }
  ss_buf_addf(out, "%llu", (unsigned long long)n);
}

void ss_put_share(struct ss_buf *out, uint64_t part, uint64_t whole, uint64_t n)
{
  double p = whole ? (double)part / (double)whole : 0;
  double error = n ? 100 * sqrt(fmax(0, p * (1 - p)) / (double)n) : 0;

  p *= 100;
  if (error <= 0) {
    ss_put_significant(out, p);
    ss_buf_adds(out, " %");
    return;
  }
  int decimals = error >= 1 ? 0 : error >= 0.1 ? 1 : 2;
  ss_buf_addf(out, "%.*f +- %.*f %%", decimals, p, decimals,
              fmax(error, pow(10, -decimals)));
}
