#include "shard/lanes.hpp"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "tessera/core/error.hpp"

namespace tessera::shard {
namespace {

TEST(Lanes, RunInLockStepInOrder) {
  std::string log;
  std::unique_ptr<Lanes> lanes;
  std::vector<std::function<void()>> functions;
  for (int i = 0; i < 3; ++i) {
    functions.emplace_back([&log, &lanes, i] {
      for (int place = 0; place < 3; ++place) {
        lanes->meet(place);
        EXPECT_EQ(lanes->lane(), static_cast<std::size_t>(i));
        log += std::to_string(place) + static_cast<char>('a' + i) + " ";
      }
    });
  }
  lanes = std::make_unique<Lanes>(functions);
  lanes->run();
  EXPECT_EQ(log, "0a 0b 0c 1a 1b 1c 2a 2b 2c ");
}

TEST(Lanes, AnErrorInOneUnwindsTheOthersAndIsThrown) {
  struct Counted {
    int& count;
    explicit Counted(int& c) : count(c) { ++count; }
    ~Counted() { --count; }
  };
  int alive = 0, passed = 0;
  std::unique_ptr<Lanes> lanes;
  lanes = std::make_unique<Lanes>(std::vector<std::function<void()>>{[&] {
                                                                       const Counted counted(alive);
                                                                       lanes->meet(0);
                                                                       lanes->meet(1);
                                                                       ++passed;
                                                                     },
                                                                     [&] {
                                                                       const Counted counted(alive);
                                                                       lanes->meet(0);
                                                                       throw RequestError("out of {}", "luck");
                                                                     }});
  try {
    lanes->run();
    FAIL() << "no error";
  } catch (const RequestError& e) {
    EXPECT_STREQ(e.what(), "out of luck");
  }
  EXPECT_EQ(alive, 0);
  EXPECT_EQ(passed, 0);
}

TEST(Lanes, DifferentMeetingPlacesAreAnError) {
  std::unique_ptr<Lanes> lanes;
  lanes = std::make_unique<Lanes>(std::vector<std::function<void()>>{[&] { lanes->meet(0); }, [&] { lanes->meet(1); }});
  EXPECT_THROW(lanes->run(), RunError);
  lanes = std::make_unique<Lanes>(std::vector<std::function<void()>>{[&] { lanes->meet(0); }, [] {}});
  EXPECT_THROW(lanes->run(), RunError);
}

TEST(Lanes, EachKeepsItsOwnGradMode) {
  std::unique_ptr<Lanes> lanes;
  lanes = std::make_unique<Lanes>(std::vector<std::function<void()>>{[&] {
                                                                       const at::NoGradGuard no_grad;
                                                                       lanes->meet(0);
                                                                       EXPECT_FALSE(at::GradMode::is_enabled());
                                                                     },
                                                                     [&] {
                                                                       lanes->meet(0);
                                                                       EXPECT_TRUE(at::GradMode::is_enabled());
                                                                     }});
  lanes->run();
  EXPECT_TRUE(at::GradMode::is_enabled());
}

TEST(Lanes, ExceptionsCaughtInsideALaneAreItsOwn) {
  std::unique_ptr<Lanes> lanes;
  int caught = 0;
  auto function = [&] {
    lanes->meet(0);
    try {
      throw RunError("inner");
    } catch (const RunError&) {
      ++caught;
    }
    lanes->meet(1);
  };
  lanes = std::make_unique<Lanes>(std::vector<std::function<void()>>{function, function});
  lanes->run();
  EXPECT_EQ(caught, 2);
}

}  // namespace
}  // namespace tessera::shard
