// Burns SECONDS of CPU time while C++ exceptions are in flight: thrown below some
// frames, caught, thrown again from there and as a std::exception_ptr.
// usage: throwing SECONDS
#include <cstdlib>
#include <ctime>
#include <exception>
#include <stdexcept>
#include <string>

namespace {

volatile unsigned sink;

struct Unwound {  // a destructor runs in each frame on the way
  ~Unwound() { sink = sink + 1; }
};

__attribute__((noinline)) void descend(int depth)
{
  Unwound u;
  if (depth == 0)
    throw std::runtime_error("at the bottom, with a text that needs memory");
  descend(depth - 1);
  sink = sink + 1;
}

__attribute__((noinline)) void again(int depth)
{
  try {
    descend(depth);
  } catch (const std::exception &) {
    throw;
  }
}

__attribute__((noinline)) void kept(int depth)
{
  std::exception_ptr held;
  try {
    again(depth);
  } catch (...) {
    held = std::current_exception();
  }
  std::rethrow_exception(held);
}

}  // namespace

int main(int argc, char **argv)
{
  if (argc < 2)
    return 2;
  const std::clock_t end =
      std::clock() + static_cast<std::clock_t>(std::atof(argv[1]) * CLOCKS_PER_SEC);
  while (std::clock() < end) {
    try {
      kept(12);
    } catch (const std::exception &e) {
      sink = sink + static_cast<unsigned>(e.what()[0]);
    }
  }
  return 0;
}
